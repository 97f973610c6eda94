r"""Molecules and their edges on a device, packed into batches of a fixed size."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph.molecules import molecule_edges
from ..ops import EdgePlan, Knots

# Molecules whose edges are looked for at once: bounds the memory of their int64 indices.
_MOLECULES_AT_ONCE = 4096
# Edges beyond which the device would rather not keep all of them: up to 3 GB.
_MAX_EDGES = 1 << 28
# Padding atoms that every batch has at least: they share out the padding edges, which one program
# of a kernel would otherwise walk along for longer than all others together.
_SPARE_ATOMS = 16
# Standard deviations above the mean of a batch that the capacities allow for. One batch in fifteen
# exceeds the first, one in a million the second.
_MARGINS = (1.5, 5.0)


class UnpackableError(Exception):
    """What keeps molecules from being packed."""


class Capacity(NamedTuple):
    """How much fits into a batch.

    Attributes:
        atoms: Atoms, with padding.
        edges: Edges, with padding.
    """

    atoms: int
    edges: int


@dataclass(frozen=True)
class PackedBatch:
    r"""B molecules, and one more of padding: N atoms with E edges, whatever the molecules.

    Padding atoms have atomic number 0 and belong to the last molecule; padding edges lead from a
    padding atom to itself. Unknown labels, and those of padding, are NaN.

    Attributes:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, D]``.
        molecule: Molecule of each atom ``[N]``, 0 to B.
        sizes: Atoms of each molecule ``[B + 1]``, one at least.
        energy: Labels ``[B + 1]`` in float64.
        force: Forces ``[N, D]``, if there are any.
        edge_index: Edges ``[2, E]`` int32, by target and then by source.
        is_edge: Whether an edge is none of padding, ``[E]``.
        plan: The edges, prepared.
        beyond: A distance for padding edges, at which filters are zero.
        rows: Row of each atom among those of all molecules ``[N]``, the number of these if padding.
    """

    z: Tensor
    pos: Tensor
    molecule: Tensor
    sizes: Tensor
    energy: Tensor
    force: Tensor | None
    edge_index: Tensor
    is_edge: Tensor
    plan: EdgePlan
    beyond: float
    rows: Tensor


class PackedMolecules:
    r"""Molecules with all they need for training, on a device, where batches are made of them.

    The edges are found once, here. A batch is a few gathers of shapes that its capacity fixes: the
    host neither looks at a number nor waits, so that a CUDA graph can hold it.

    Args:
        z: Atomic numbers of all molecules ``[A]``, none of them 0.
        pos: Positions ``[A, 3]``, finite.
        sizes: Atoms of each of M molecules ``[M]``.
        energy: Labels ``[M]`` in float64, NaN where unknown.
        force: Forces ``[A, 3]``, NaN where unknown, if they are of use.
        radius: Radius of the edges, infinite for all pairs of a molecule.
        device: Where to put them.

    Attributes:
        longest: The longest edge.
        device: Where they are.
        pos: Positions ``[A + 1, D]`` on the device, the last one of padding.
        energy: Labels ``[M + 1]`` likewise.
        force: Forces ``[A + 1, D]`` likewise.

    Raises:
        UnpackableError: If atoms coincide, or there are too many edges.
    """

    def __init__(
        self,
        z: Tensor,
        pos: Tensor,
        sizes: Tensor,
        energy: Tensor,
        force: Tensor | None,
        radius: float,
        device: torch.device,
    ):
        edges = _find_edges(pos, sizes, radius)
        self.longest = edges.longest
        self._sizes = sizes.numpy(), edges.counts.numpy()
        self.device = device
        # Behind the last of each kind there is one for padding.
        none = sizes.new_zeros(1)
        self._num_atoms, self._num_edges = (
            torch.cat([counts, none]).to(device) for counts in (sizes, edges.counts)
        )
        self._first_atom = self._num_atoms.cumsum(0) - self._num_atoms  # [M + 1]
        self._first_edge = self._num_edges.cumsum(0) - self._num_edges
        self._z = torch.cat([z.long(), none]).to(device)
        self.pos = torch.cat([pos, pos.new_zeros(1, pos.size(1))]).to(device)
        self.energy = torch.cat([energy, energy.new_full((1,), torch.nan)]).to(device)
        self.force = None
        if force is not None:
            self.force = torch.cat([force, force.new_full((1, force.size(1)), torch.nan)])
            self.force = self.force.to(device)
        self._edges = edges.local.to(device)

    def __len__(self) -> int:
        return self._sizes[0].size

    def capacities(self, batch_size: int) -> list[Capacity]:
        """Capacities for batches of so many molecules in random order, the smallest first."""
        most = [int(np.sort(counts)[-batch_size:].sum()) for counts in self._sizes]
        found = []
        for margin in _MARGINS:
            expected = [
                batch_size * counts.mean() + margin * math.sqrt(batch_size) * counts.std()
                for counts in self._sizes
            ]
            atoms, edges = (min(math.ceil(mean), top) for mean, top in zip(expected, most))
            found.append(_rounded(atoms, edges))
        return sorted(set(found))

    def needed(self, numbers: np.ndarray) -> Capacity:
        """The capacity that a batch of the molecules with these numbers needs."""
        return _rounded(*(int(counts[numbers].sum()) for counts in self._sizes))

    def batch(self, numbers: Tensor, capacity: Capacity, knots: Knots) -> PackedBatch:
        r"""Packs molecules, without looking at any of these numbers.

        Args:
            numbers: Numbers of the molecules ``[B]`` int64, on the device; M stands for none.
            capacity: What they need at least, see :meth:`needed`; else the batch is wrong.
            knots: Knots of the filters, up to :attr:`longest` or beyond.
        """
        num_atoms, num_edges = capacity
        last = numbers.new_full((1,), len(self))
        numbers = torch.cat([numbers, last])  # [B + 1]
        # 1. Atoms: molecule and row of each.
        sizes = self._num_atoms[numbers]
        ends = sizes.cumsum(0)
        atoms = torch.arange(num_atoms, device=self.device)
        molecule = torch.searchsorted(ends[:-1], atoms, right=True)  # B beyond all
        begins = ends - sizes  # the padding begins where the last molecule ends
        rows = (self._first_atom[numbers] - begins)[molecule] + atoms
        rows = rows.clamp(max=self._z.size(0) - 1)
        # 2. Edges: the same, and both atoms of each.
        counts = self._num_edges[numbers]
        edge_ends = counts.cumsum(0)
        edges = torch.arange(num_edges, device=self.device)
        owner = torch.searchsorted(edge_ends[:-1], edges, right=True)
        edge_begins = edge_ends - counts
        at = (self._first_edge[numbers] - edge_begins)[owner] + edges
        is_edge = owner < numbers.size(0) - 1
        local = self._edges[:, at.clamp(max=self._edges.size(1) - 1)].long()  # [3, E]
        # Padding edges are shared out evenly among padding atoms, in order.
        atoms_left = num_atoms - ends[-1]
        edges_left = (num_edges - edge_ends[-1]).clamp(min=1)
        within = (edges - edge_ends[-1]).clamp(min=0)
        pad = ends[-1] + torch.div(within * atoms_left, edges_left, rounding_mode="floor")
        edge_index = torch.where(is_edge, begins[owner] + local[:2], pad).int()
        reverse = torch.where(is_edge, edge_begins[owner] + local[2], edges).int()
        bounds = torch.arange(num_atoms + 1, dtype=torch.int32, device=self.device)
        source, target = edge_index
        plan = EdgePlan(
            source,
            target,
            num_atoms,
            num_atoms,
            rowptr=torch.searchsorted(target, bounds, out_int32=True),
            reverse=reverse,
            knots=knots,
            mutual=True,
        )
        return PackedBatch(
            self._z[rows],
            self.pos[rows],
            molecule,
            torch.cat([sizes[:-1], atoms_left.view(1)]).clamp(min=1),
            self.energy[numbers],
            None if self.force is None else self.force[rows],
            edge_index,
            is_edge,
            plan,
            2.0 * knots.stop + 1.0,
            rows,
        )


def _rounded(atoms: int, edges: int) -> Capacity:
    return Capacity(8 * -(-(atoms + _SPARE_ATOMS) // 8), 64 * -(-max(edges, 1) // 64))


class _Edges(NamedTuple):
    """Edges of all molecules, one molecule after the other.

    Attributes:
        local: Source, target and reverse of each, counted within its molecule, ``[3, E + 1]``;
            the last one is of padding.
        counts: Edges of each molecule ``[M]``.
        longest: The longest of them.
    """

    local: Tensor
    counts: Tensor
    longest: float


def _find_edges(pos: Tensor, sizes: Tensor, radius: float) -> _Edges:
    starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])  # [M + 1]
    chunks, counts, longest, total = [], [], 0.0, 0
    for first in range(0, sizes.numel(), _MOLECULES_AT_ONCE):
        ptr = starts[first : first + _MOLECULES_AT_ONCE + 1]
        own = pos[int(ptr[0]) : int(ptr[-1])]
        ptr = ptr - ptr[0]
        found = molecule_edges(own, radius, ptr)
        plan = EdgePlan.build(found.edge_index, own.size(0), found.edge_weight)
        if plan.extent is None or plan.reverse is None or plan.permutation is not None:
            raise UnpackableError("the edges are not in order or not symmetric")
        if not plan.extent[0] > 0:
            raise UnpackableError("atoms are at the same place")
        longest, total = max(longest, plan.extent[1]), total + plan.num_edges
        if total > _MAX_EDGES:
            raise UnpackableError(f"the molecules have more than {_MAX_EDGES:,} edges")
        number = found.starts.diff()
        owner = torch.arange(number.numel()).repeat_interleave(number)
        atoms = found.edge_index - ptr[owner]
        reverse = plan.reverse - found.starts[owner]
        chunks.append(_narrowed(torch.cat([atoms, reverse.unsqueeze(0)])))
        counts.append(number)
    kind = max((chunk.dtype for chunk in chunks), key=lambda dtype: dtype.itemsize)
    local = torch.cat([*(chunk.to(kind) for chunk in chunks), torch.zeros(3, 1, dtype=kind)], 1)
    return _Edges(local, torch.cat(counts), longest)


def _narrowed(values: Tensor) -> Tensor:
    """In the smallest integers that hold them: edges are most of what is on the device."""
    top = int(values.max()) if values.numel() > 0 else 0
    for dtype in (torch.uint8, torch.int16):
        if top <= torch.iinfo(dtype).max:
            return values.to(dtype)
    return values.int()
