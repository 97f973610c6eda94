r"""A neighbour list that is kept while atoms move little.

L. Verlet, Computer "experiments" on classical fluids, Phys. Rev. 159, 98 (1967).
"""

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels
from .checks import check_atoms, check_open, check_tensor, unify_cells
from .distance import edge_vectors
from .lattice import build_lattice, without_cell
from .search import neighbors, periodic_neighbors


@dataclass(frozen=True)
class _Build:
    """A search with the larger radius, and what it was made from.

    Attributes:
        radius: The radius.
        pos: Positions then, ``[N, D]``.
        batch: System of each atom ``[N]``, or ``None``.
        system: Whose cell each atom is in, ``[N]``; zeros without cells.
        cells: Lattice vectors ``[B, 3, 3]``, zero along open directions; ``None`` without cells.
        periodic: Periodic directions ``[B, 3]``.
        dual: Dual vectors in columns ``[B, 3, 3]``, float64.
        error: Bound on rounding errors of distances.
        edges: ``[2, E]``.
        shifts: ``[E, 3]``; zeros without a cell.
    """

    radius: float
    pos: Tensor
    batch: Tensor | None
    system: Tensor
    cells: Tensor | None
    periodic: Tensor
    dual: Tensor
    error: float
    edges: Tensor
    shifts: Tensor


class NeighborList:
    r"""Searches neighbours for the steps of a simulation, and only when atoms have moved enough.

    The search takes in pairs up to ``cutoff + skin``. While no atom has moved by more than half the
    skin since, all pairs within ``cutoff`` are among these, and only distances are compared. With a
    cell that has changed by the deformation :math:`F` (:math:`a_k' = a_k F`), movements are
    counted against the deformed positions, :math:`u_i = r_i' - r_i F`: pairs that were left out
    are at least :math:`\sigma_\text{min}(F) (cutoff + skin) - 2 \max |u_i|` apart. Atoms that were
    wrapped back into the cell are followed by changing shifts.

    The edges are those of :func:`radius_graph`, in the same order but for images of one pair.

    Args:
        cutoff: Radius in the unit of ``pos``.
        skin: How far beyond to search, in the same unit. More of it saves searches and costs
            comparisons.
        exact: Whether to leave out the pairs between ``cutoff`` and ``cutoff + skin``. If not, the
            edges stay the same tensors between searches, not to be written into; a model with an
            envelope gives them no weight.

    Attributes:
        builds: Number of searches so far.

    >>> import torch
    >>> neighbor_list = NeighborList(cutoff=2.5, skin=0.5)
    >>> pos, cell = torch.zeros(1, 3), 2.4 * torch.eye(3)
    >>> edge_index, edge_shift = neighbor_list(pos, cell=cell)
    >>> edge_index, edge_shift = neighbor_list(pos + 0.1, cell=1.01 * cell)
    >>> edge_index.size(1), neighbor_list.builds
    (6, 1)
    """

    def __init__(self, cutoff: float, skin: float = 1.0, *, exact: bool = True):
        for name, value in (("cutoff", cutoff), ("skin", skin)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"'{name}' must be positive and finite (got {value})")
        self.cutoff = cutoff
        self.skin = skin
        self.exact = exact
        self.builds = 0
        self._build: _Build | None = None

    @overload
    def __call__(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: None = None,
        pbc: Tensor | bool | None = None,
    ) -> Tensor: ...

    @overload
    def __call__(
        self, pos: Tensor, batch: Tensor | None, cell: Tensor, pbc: Tensor | bool | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor,
        pbc: Tensor | bool | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | bool | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""Finds the pairs within the cutoff.

        Args:
            pos: Positions, ``[N, D]``, wrapped into the cell or not.
            batch: See :func:`radius_graph`.
            cell: See :func:`radius_graph`.
            pbc: See :func:`radius_graph`.

        Returns:
            ``edge_index``, ``[2, E]``; with a cell also ``edge_shift``, ``[E, 3]``.

        Raises:
            TypeError: As :func:`radius_graph` does.
            ValueError: As :func:`radius_graph` does.
        """
        check_tensor("pos", pos)
        pos = pos.detach()
        cells, periodic = None, torch.zeros(1, 3, dtype=torch.bool, device=pos.device)
        if cell is None:
            check_open(pbc)
        elif pos.dim() == 2:
            cells, periodic = unify_cells(pos, self.cutoff, batch, cell, pbc)
            cells = (cells.detach() * periodic.unsqueeze(2)).contiguous()
        build, jumps = self._build, None
        if build is not None and build.radius != self.cutoff + self.skin:
            build = None  # the user has changed them
        if build is not None and _same_system(build, pos, batch, cells, periodic):
            jumps = self._followed(build, pos, cells)
        if build is None or jumps is None:
            with torch.inference_mode(False):  # what is kept may serve a step with gradients
                build = self._build = self._search(pos, batch, cell, pbc)
            self.builds += 1
            jumps = pos.new_zeros(0, 3)
            cells = build.cells
        edges, shifts = build.edges, build.shifts
        if jumps.any():
            shifts = shifts + jumps.index_select(0, edges[1]) - jumps.index_select(0, edges[0])
        if self.exact:
            edges, shifts = _within(build, pos, cells, edges, shifts, self.cutoff)
        return edges if cell is None else (edges, shifts)

    def _search(
        self, pos: Tensor, batch: Tensor | None, cell: Tensor | None, pbc: Tensor | bool | None
    ) -> _Build:
        r = self.cutoff + self.skin
        check_atoms(pos, r, batch)
        kept = None if batch is None else batch.clone()
        system = pos.new_zeros(pos.size(0), dtype=torch.long)
        if cell is None:
            edges = neighbors(pos, r, batch)
            shifts = pos.new_zeros(edges.size(1), 3)
            lattice, cells = without_cell(pos, r), None
            periodic = torch.zeros(1, 3, dtype=torch.bool, device=pos.device)
        else:
            system = system if kept is None else kept.long()
            cells, periodic = unify_cells(pos, r, batch, cell, pbc)
            lattice = build_lattice(pos, r, batch, cells.detach(), periodic)
            edges, shifts = periodic_neighbors(pos, r, batch, cell, pbc)
            cells, periodic = lattice.vectors, periodic.clone()
        error = float(lattice.radius.max()) - r
        dual = lattice.dual
        return _Build(r, pos.clone(), kept, system, cells, periodic, dual, error, edges, shifts)

    def _followed(self, build: _Build, pos: Tensor, cells: Tensor | None) -> Tensor | None:
        """By how many lattice vectors each atom was moved, ``[N, 3]``; ``None`` to search again."""
        # Distances then and now, and movements, are all rounded.
        reach = self.cutoff + self.skin
        allowed: Tensor | float = 0.5 * (self.skin - 8.0 * build.error)
        start, dual = build.pos.double(), build.dual
        if cells is not None and build.cells is not None and not torch.equal(cells, build.cells):
            change = dual @ (cells - build.cells).double()  # [B, 3, 3]
            deformation = change + torch.eye(3, dtype=torch.float64, device=pos.device)
            smallest = torch.linalg.svdvals(deformation)[:, -1]  # [B]
            if not bool((smallest > 0.5).all()):
                return None
            dual = torch.linalg.solve(deformation, dual)
            start = _by_system(start, deformation, build)
            each = 0.5 * (smallest * reach - self.cutoff - 8.0 * build.error)
            allowed = each if build.batch is None else each.index_select(0, build.system)
        moved = pos.double() - start
        jumps = pos.new_zeros(0, 3)
        if cells is not None:
            whole = _by_system(moved, dual, build).round()  # [N, 3]
            if whole.any():
                if not bool((whole.abs() <= 1.0).all()):  # NaN included
                    return None
                moved = moved - _by_system(whole, cells.double(), build)
                jumps = whole.to(pos.dtype)
        # Not the other way round: NaN must lead to a search, which refuses it.
        near = moved.square().sum(dim=1).sqrt() <= allowed
        return jumps if bool(near.all()) else None


def _by_system(rows: Tensor, matrices: Tensor, build: _Build) -> Tensor:
    """Each atom's row ``[N, 3]`` times the matrix ``[B, 3, 3]`` of its system."""
    if matrices.size(0) == 1:
        return rows @ matrices[0]
    return (rows.unsqueeze(1) @ matrices.index_select(0, build.system)).squeeze(1)


def _same_system(
    build: _Build,
    pos: Tensor,
    batch: Tensor | None,
    cells: Tensor | None,
    periodic: Tensor,
) -> bool:
    if pos.shape != build.pos.shape or pos.dtype != build.pos.dtype:
        return False
    if pos.device != build.pos.device or pos.size(0) == 0:
        return False
    if (batch is None) != (build.batch is None) or (cells is None) != (build.cells is None):
        return False
    if batch is not None and build.batch is not None and not torch.equal(batch, build.batch):
        return False
    return torch.equal(periodic, build.periodic)


def _within(
    build: _Build, pos: Tensor, cells: Tensor | None, edges: Tensor, shifts: Tensor, r: float
) -> tuple[Tensor, Tensor]:
    vectors = pos.new_zeros(1, 3, 3) if cells is None else cells
    if use_cpu_kernels(pos) and pos.size(1) == 3:
        from . import kernels

        arrays = kernels.within(
            pos.contiguous().numpy(),
            vectors.numpy(),
            build.system.numpy(),
            edges.numpy(),
            shifts.numpy(),
            float(r),
        )
        return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    if cells is None:
        along = edge_vectors(pos, edges)
    else:
        along = edge_vectors(pos, edges, shifts, cells, build.batch)
    keep = along.square().sum(dim=1) < r * r
    return edges[:, keep], shifts[keep]
