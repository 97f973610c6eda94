r"""Takes the systems of a batch to the method that suits their size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .lattice import Lattice, without_cell
from .linear import linear_pairs
from .pairs import all_images, all_pairs

# Where a cell list begins to pay: the atoms of a system, and the part of its box that the ball of
# the radius fills. Measured on the CPU; for GPUs, where all pairs are cheap, an estimate.
_LARGE = {"cpu": 300, "cuda": 8000}
_FILLED = 0.06


def open_edges(pos: Tensor, r: float, batch: Tensor | None, backend: str) -> Tensor:
    """Edges ``[2, E]`` of systems without a cell."""
    parts = []
    for run in _runs(pos, r, batch, None, backend):
        part = pos[run.atoms]
        if run.large:
            edges = linear_pairs(part, r, without_cell(part, r))[0]
        else:
            edges = all_pairs(part, r, run.members(batch))
        parts.append(edges + run.atoms.start if run.atoms.start > 0 else edges)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def periodic_edges(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice, backend: str
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of systems with cells."""
    parts, shifts = [pos.new_empty(2, 0, dtype=torch.long)], [pos.new_empty(0, 3)]
    for run in _runs(pos, r, batch, lattice, backend):
        part, cells = pos[run.atoms], lattice.part(run.systems, run.atoms)
        if run.large:
            edges, shift = linear_pairs(part, r, cells)
        else:
            edges, shift = all_images(part, r, run.members(batch), cells)
        parts.append(edges + run.atoms.start if run.atoms.start > 0 else edges)
        shifts.append(shift)
    if len(parts) == 2:
        return parts[1], shifts[1]
    return torch.cat(parts, dim=1), torch.cat(shifts)


@dataclass(frozen=True)
class _Run:
    """Consecutive small systems, or a large one."""

    systems: slice
    atoms: slice
    large: bool

    def members(self, batch: Tensor | None) -> Tensor | None:
        """System of each of its atoms, counted from zero."""
        if batch is None or (self.systems.start == 0 and self.atoms.start == 0):
            return None if batch is None else batch[self.atoms]
        return batch[self.atoms] - self.systems.start


def _runs(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice | None, backend: str
) -> Iterator[_Run]:
    """Cuts a batch where the method changes."""
    num_atoms, dimension = pos.shape
    smallest = _LARGE["cpu" if pos.device.type == "cpu" else "cuda"]
    searchable = dimension == 3 and math.isfinite(r)
    if backend == "vesin" and not searchable:
        raise ValueError(
            "backend 'vesin' needs three dimensions and a finite 'r' "
            f"(got {dimension} and {r}): use backend='auto'"
        )
    if num_atoms == 0:
        return
    sizes = [num_atoms]
    if backend != "vesin" and (
        num_atoms < smallest
        or backend == "torch"
        or not searchable
        or torch.compiler.is_compiling()
    ):
        yield _Run(slice(0, None), slice(0, num_atoms), False)
        return
    if batch is not None:
        sizes = torch.bincount(batch).tolist()
    first = begin = start = 0  # of the systems that wait for a run; of this one
    for system, size in enumerate(sizes):
        stop = start + size
        atoms, systems = slice(start, stop), slice(system, system + 1)
        one = lattice.part(systems, atoms) if lattice is not None else None
        if size > 0 and (
            backend == "vesin" or (size >= smallest and _filled(pos[atoms], r, one) < _FILLED)
        ):
            if begin < start:
                yield _Run(slice(first, system), slice(begin, start), False)
            yield _Run(systems, atoms, True)
            first, begin = system + 1, stop
        start = stop
    if begin < num_atoms:
        yield _Run(slice(first, len(sizes)), slice(begin, num_atoms), False)


def _filled(pos: Tensor, r: float, lattice: Lattice | None) -> float:
    """About which part of the system the ball around an atom fills."""
    if lattice is not None and bool((lattice.reach > 0).any()):
        spanned = torch.where(lattice.reach > 0, 2.0 * lattice.reach, 1.0).clamp(max=1.0)
        return math.pi / 6 * float(spanned.prod())
    extent = (pos.amax(dim=0) - pos.amin(dim=0)).clamp(min=r)
    return 4 / 3 * math.pi * float((r / extent.double()).prod())
