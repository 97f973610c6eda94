r"""Takes the systems of a batch to the method that suits their size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import cell_pairs
from .lattice import Lattice, bounds, sizes_of, without_cell
from .linear import linear_pairs
from .pairs import all_images, all_pairs
from .warp import warp_pairs

# On the CPU, where vesin begins to pay: the atoms of a system, and the part of its box that the
# ball of the radius fills. Measured.
_LARGE = 300
_FILLED = 0.06

# On other devices, the pairs of atoms up to which looking at all of them takes no longer than to
# launch what sorts atoms into cells, and how many pairs one candidate from the cells may cost.
# Estimated: 2^23 pairs move 1 GB, in half a millisecond, as long as a hundred kernels take.
_MANY = 1 << 23
_COST_OF_CELLS = 4.0

# Methods for all systems of a batch at once, in three dimensions and with finite radii.
_AT_ONCE = {"cells": cell_pairs, "nvalchemi": warp_pairs}


def open_edges(pos: Tensor, r: float, batch: Tensor | None, backend: str) -> Tensor:
    """Edges ``[2, E]`` of systems without a cell."""
    backend = _chosen(pos, r, batch, None, backend)
    if backend in _AT_ONCE:
        lattice = without_cell(pos, r, _num_systems(batch))
        return _AT_ONCE[backend](pos, r, batch, lattice, False)[0]
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
    backend = _chosen(pos, r, batch, lattice, backend)
    if backend in _AT_ONCE:
        return _AT_ONCE[backend](pos, r, batch, lattice, True)
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


def _chosen(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice | None, backend: str
) -> str:
    """The backend that will do it, where ``"auto"`` leaves the choice to us."""
    searchable = pos.size(1) == 3 and math.isfinite(r)
    if backend not in ("auto", "torch") and not searchable:
        raise ValueError(
            f"backend '{backend}' needs three dimensions and a finite 'r' "
            f"(got {pos.size(1)} and {r}): use backend='auto'"
        )
    if backend != "auto":
        return backend
    if not searchable or torch.compiler.is_compiling() or pos.device.type == "mps":
        return "torch"  # an MPS device has no float64, which all others want
    if pos.device.type == "cpu":
        return "auto" if pos.size(0) >= _LARGE else "torch"
    return "cells" if _many(pos, r, batch, lattice) else "torch"


def _many(pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice | None) -> bool:
    """Whether all pairs are too many to look at; the host waits once, and not for few atoms."""
    if lattice is None and pos.size(0) ** 2 <= _MANY:
        return False
    num_systems = _num_systems(batch) if lattice is None else lattice.radius.size(0)
    pairs = sizes_of(pos, batch, num_systems).double().square()  # [B]
    if lattice is not None:
        pairs = pairs * (2.0 * lattice.reach + 1.0).prod(dim=1)
    # A candidate more for each pair within the radius.
    near = pairs * (2.0 * _filled(pos, r, batch, lattice, num_systems)).clamp(max=1.0)
    total, candidates = torch.stack([pairs.sum(), near.sum()]).tolist()
    return bool(total > _MANY and total > _COST_OF_CELLS * candidates)


def _num_systems(batch: Tensor | None) -> int:
    return 1 if batch is None else int(batch[-1]) + 1


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
    """Cuts a batch where the method changes: all pairs, or vesin."""
    num_atoms = pos.size(0)
    if num_atoms == 0:
        return
    if backend == "torch":
        yield _Run(slice(0, None), slice(0, num_atoms), False)
        return
    num_systems = _num_systems(batch)
    sizes = sizes_of(pos, batch, num_systems).tolist()
    filled = _filled(pos, r, batch, lattice, num_systems).tolist()
    first = begin = start = 0  # of the systems that wait for a run; of this one
    for system, size in enumerate(sizes):
        stop = start + size
        large = backend == "vesin" or (size >= _LARGE and filled[system] < _FILLED)
        if size > 0 and large:
            if begin < start:
                yield _Run(slice(first, system), slice(begin, start), False)
            yield _Run(slice(system, system + 1), slice(start, stop), True)
            first, begin = system + 1, stop
        start = stop
    if begin < num_atoms:
        yield _Run(slice(first, len(sizes)), slice(begin, num_atoms), False)


def _filled(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice | None, num_systems: int
) -> Tensor:
    """About which part of each system the ball around an atom fills, ``[B]``."""
    members = pos.new_zeros(pos.size(0), dtype=torch.long) if batch is None else batch.long()
    low, high = bounds(pos, members, num_systems)
    open_part = 4 / 3 * math.pi * (r / (high - low).double().clamp(min=r)).prod(dim=1)
    if lattice is None:
        return open_part
    reach = lattice.reach[:num_systems]
    spanned = torch.where(reach > 0, 2.0 * reach, 1.0).clamp(max=1.0)
    return torch.where((reach > 0).any(dim=1), math.pi / 6 * spanned.prod(dim=1), open_part)
