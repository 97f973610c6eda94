r"""A neighbour list that is kept while atoms move little.

L. Verlet, Computer "experiments" on classical fluids, Phys. Rev. 159, 98 (1967).
"""

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels
from .checks import check_atoms, check_open, check_tensor, shape_cells, unify_cells
from .distance import edge_vectors, squared_lengths
from .lattice import build_lattice, by_system, without_cell
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

    All of it happens on the device of the positions. There the host waits once in a step, for
    whether atoms have moved too far (twice in the step at which a cell begins to change), and once
    more for the number of pairs, if they are to be exact.

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
        self._strained = False  # whether the cell was another one at the last step

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
        cells, periodic = None, None
        if cell is None:
            check_open(pbc)
        elif pos.dim() == 2:
            cells, periodic = shape_cells(pos, batch, cell, pbc)
            cells = (cells.detach() * periodic.unsqueeze(2)).contiguous()
        build, kept = self._build, False
        if build is not None and build.radius != self.cutoff + self.skin:
            build = None  # the user has changed them
        jumps: Tensor | None = None
        if build is not None and _comparable(build, pos, batch, cells):
            kept, jumps = self._followed(build, pos, batch, cells, periodic)
        if build is None or not kept:
            with torch.inference_mode(False):  # what is kept may serve a step with gradients
                build = self._build = self._search(pos, batch, cell, pbc)
            self.builds += 1
            self._strained = False
            cells = build.cells
        edges, shifts = build.edges, build.shifts
        if jumps is not None:
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

    def _followed(
        self,
        build: _Build,
        pos: Tensor,
        batch: Tensor | None,
        cells: Tensor | None,
        periodic: Tensor | None,
    ) -> tuple[bool, Tensor | None]:
        """Whether the pairs are still all there, and the lattice vectors by which atoms jumped.

        Returns:
            ``False`` to search again, and jumps ``[N, 3]``, ``None`` where there are none.
        """
        same = torch.ones((), dtype=torch.bool, device=pos.device)
        if batch is not None and build.batch is not None:
            same = (batch == build.batch).all()
        unchanged = same
        if cells is not None and periodic is not None and build.cells is not None:
            same = same & (periodic == build.periodic).all()
            unchanged = (cells == build.cells).all()
        # All at once: for every look at a number the host would have to wait for a GPU.
        near, jumped, jumps = self._movements(build, pos, cells, self._strained)
        answers = torch.stack([same, unchanged, near, jumped]).tolist()
        if answers[0] and not answers[1] and not self._strained:
            near, jumped, jumps = self._movements(build, pos, cells, True)
            answers[2:] = torch.stack([near, jumped]).tolist()
        self._strained = not answers[1]
        if not (answers[0] and answers[2]):
            return False, None
        return True, jumps if answers[3] else None

    def _movements(
        self, build: _Build, pos: Tensor, cells: Tensor | None, strained: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Whether atoms have moved little, whether any has jumped, and jumps ``[N, 3]``."""
        # Distances then and now, and movements, are all rounded.
        allowed: Tensor | float = 0.5 * (self.skin - 8.0 * build.error)
        start, dual = build.pos.double(), build.dual
        if strained and cells is not None and build.cells is not None:
            change = dual @ (cells.double() - build.cells.double())  # [B, 3, 3]
            deformation = change + torch.eye(3, dtype=torch.float64, device=pos.device)
            smallest = _least_stretch(deformation)  # [B]
            reach = self.cutoff + self.skin
            each = 0.5 * (smallest * reach - self.cutoff - 8.0 * build.error)
            each = torch.where(smallest > 0.5, each, -1.0)  # NaN included
            allowed = each if each.size(0) == 1 else each.index_select(0, build.system)
            dual = torch.linalg.inv_ex(deformation).inverse @ dual  # inv would wait
            start = by_system(start, deformation, build.system)
        moved = pos.double() - start
        jumps, jumped = moved, torch.zeros((), dtype=torch.bool, device=pos.device)
        followed = ~jumped
        if cells is not None:
            jumps = by_system(moved, dual, build.system).round()  # [N, 3]
            moved = moved - by_system(jumps, cells.double(), build.system)
            jumped, followed = jumps.any(), (jumps.abs() <= 1.0).all()
        # Not the other way round: NaN must lead to a search, which refuses it.
        near = (moved.square().sum(dim=1).sqrt() <= allowed).all()
        return near & followed, jumped, jumps.to(pos.dtype)


def _least_stretch(deformation: Tensor) -> Tensor:
    r"""A lower bound on the smallest singular value of each matrix F, ``[B]``.

    :math:`\sigma_\text{min}(sF') \ge s (1 - \lVert F' - 1 \rVert)` for s > 0, in the Frobenius
    norm: exact for a change of size, and for one along a single axis. A decomposition would make
    the host wait for a GPU.
    """
    identity = torch.eye(3, dtype=deformation.dtype, device=deformation.device)
    scale = deformation.diagonal(dim1=1, dim2=2).mean(dim=1)  # [B]
    shape = deformation / scale.view(-1, 1, 1) - identity
    whole = 1.0 - (deformation - identity).flatten(1).norm(dim=1)
    resized = scale.clamp(min=0.0) * (1.0 - shape.flatten(1).norm(dim=1))
    return torch.maximum(whole, resized)


def _comparable(build: _Build, pos: Tensor, batch: Tensor | None, cells: Tensor | None) -> bool:
    """Whether shapes and kinds are those of the search."""
    if pos.shape != build.pos.shape or pos.dtype != build.pos.dtype:
        return False
    if pos.device != build.pos.device or pos.size(0) == 0:
        return False
    for now, then in ((batch, build.batch), (cells, build.cells)):
        if (now is None) != (then is None):
            return False
        if now is not None and then is not None and now.shape != then.shape:
            return False
    return True


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
    kept = (squared_lengths(along) < r * r).nonzero()[:, 0]
    return edges.index_select(1, kept), shifts.index_select(0, kept)
