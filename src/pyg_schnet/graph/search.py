r"""Neighbour search in molecules, periodic cells, and batches of them."""

import warnings
from typing import overload

import torch
from torch import Tensor

from .checks import check_atoms, check_open, unify_cells
from .distance import edge_lengths
from .lattice import build_lattice
from .systems import open_edges, periodic_edges

_BACKENDS = ("auto", "torch", "cells", "vesin", "nvalchemi", "torch-cluster")


@overload
def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    cell: None = None,
    pbc: Tensor | bool | None = None,
    max_num_neighbors: int | None = None,
    *,
    backend: str = "auto",
) -> Tensor: ...


@overload
def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None,
    cell: Tensor,
    pbc: Tensor | bool | None = None,
    max_num_neighbors: int | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    *,
    cell: Tensor,
    pbc: Tensor | bool | None = None,
    max_num_neighbors: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | bool | None = None,
    max_num_neighbors: int | None = None,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Connects all atoms of a system, and their periodic images, that are closer than ``r``.

    The graph is complete within the radius: unlike :func:`torch_geometric.nn.radius_graph` it
    keeps every neighbour unless told otherwise, and then says so. Cells may have any shape and be
    smaller than the radius; atoms may lie outside of them.

    Args:
        pos: Positions, ``[N, D]`` in any dimension D; ``[N, 3]`` with a cell.
        r: Radius in the unit of ``pos``; pairs at a distance of exactly ``r`` are left out, as in
            ASE. ``math.inf`` gives all pairs, where nothing is periodic.
        batch: System of each atom, ``[N]``, sorted. One system if ``None``.
        cell: Lattice vectors in rows, ``[3, 3]`` of one system or ``[B, 3, 3]``.
        pbc: Along which of them the system repeats: a bool, ``[3]`` or ``[B, 3]``; all if ``None``.
            What ``cell`` holds along other directions does not matter.
        max_num_neighbors: Keep only so many nearest neighbours of each atom, with a warning
            where that drops any. A truncated graph is not symmetric, and energies on it jump.
        backend: ``"torch"`` looks at all pairs of a system; ``"cells"`` sorts atoms into cells, in
            plain PyTorch on the device of ``pos``; ``"vesin"`` makes a cell list on the CPU. These
            need three dimensions and a finite ``r``; ``"auto"`` takes the first for small systems,
            for large ones ``"vesin"`` on the CPU and ``"cells"`` elsewhere. If their packages are
            installed, ``"nvalchemi"`` has kernels for GPUs (``pip install pyg-schnet[gpu]``), and
            there is ``"torch-cluster"``, which knows no cells. All give the same edges.

    Returns:
        ``edge_index``, ``[2, E]``, sorted by target and then by source. With a cell also
        ``edge_shift``, ``[E, 3]``: how many lattice vectors each source is displaced by, whole
        numbers in the dtype of ``pos``; images of one pair are sorted by distance.

    Raises:
        ImportError: If a backend is asked for whose package is not installed.
        TypeError: If a tensor holds the wrong kind of numbers.
        ValueError: If shapes do not match, positions or lattice vectors are not finite, ``batch``
            is not sorted, lattice vectors are linearly dependent, or ``pbc`` comes without a cell.

    >>> import torch
    >>> radius_graph(torch.tensor([[0.0], [1.0], [3.0]]), r=2.5)
    tensor([[1, 0, 2, 1],
            [0, 1, 1, 2]])
    >>> atom, cell = torch.zeros(1, 3), 3.0 * torch.eye(3)
    >>> wire = torch.tensor([True, False, False])
    >>> edge_index, edge_shift = radius_graph(atom, r=3.5, cell=cell, pbc=wire)
    >>> edge_shift
    tensor([[-1., 0., 0.],
            [ 1., 0., 0.]])
    """
    check_atoms(pos, r, batch)
    pos = pos.detach()
    if cell is None:
        check_open(pbc)
        return neighbors(pos, r, batch, max_num_neighbors, backend)
    return periodic_neighbors(pos, r, batch, cell, pbc, max_num_neighbors, backend)


def neighbors(
    pos: Tensor,
    r: float,
    batch: Tensor | None,
    max_num_neighbors: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """The edges of :func:`radius_graph` without a cell, of atoms that have been checked already."""
    _check_backend(backend)
    if pos.size(0) == 0:
        return torch.empty(2, 0, dtype=torch.long, device=pos.device)
    if backend == "torch-cluster":
        edge_index = _torch_cluster(pos, r, batch)
    else:
        edge_index = open_edges(pos, r, batch, backend)
    if max_num_neighbors is None:
        return edge_index
    kept = _nearest(edge_index, edge_lengths(pos, edge_index), pos.size(0), max_num_neighbors)
    return edge_index if kept is None else edge_index[:, kept]


def periodic_neighbors(
    pos: Tensor,
    r: float,
    batch: Tensor | None,
    cell: Tensor,
    pbc: Tensor | bool | None = None,
    max_num_neighbors: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Edges and shifts of :func:`radius_graph`, of atoms that have been checked already.

    The cell has not: it is checked here.
    """
    _check_backend(backend)
    if backend == "torch-cluster":
        raise ValueError("backend 'torch-cluster' knows no periodic cells: use backend='auto'")
    cells, periodic = unify_cells(pos, r, batch, cell, pbc)
    cells = cells.detach()
    if not bool(periodic.any()):
        edge_index = neighbors(pos, r, batch, None, backend)
        edge_shift = pos.new_zeros(edge_index.size(1), 3)
    else:
        lattice = build_lattice(pos, r, batch, cells, periodic)
        edge_index, edge_shift = periodic_edges(pos, r, batch, lattice, backend)
    if max_num_neighbors is not None:
        lengths = edge_lengths(pos, edge_index, edge_shift, cells * periodic.unsqueeze(2), batch)
        kept = _nearest(edge_index, lengths, pos.size(0), max_num_neighbors)
        if kept is not None:
            edge_index, edge_shift = edge_index[:, kept], edge_shift[kept]
    return edge_index, edge_shift


def _check_backend(backend: str) -> None:
    if backend not in _BACKENDS:
        raise ValueError(f"'backend' must be one of {', '.join(_BACKENDS)} (got '{backend}')")


def _torch_cluster(pos: Tensor, r: float, batch: Tensor | None) -> Tensor:
    try:
        from torch_cluster import radius_graph as cluster_radius_graph
    except ImportError as error:
        raise ImportError(
            "backend='torch-cluster' needs the package torch-cluster: "
            "pip install pyg-schnet[ext], or use backend='torch'"
        ) from error
    # Its limit on neighbours truncates in silence, so give one that no molecule can reach.
    edge_index = cluster_radius_graph(pos, r, batch, loop=False, max_num_neighbors=pos.size(0))
    order = (edge_index[1] * pos.size(0) + edge_index[0]).argsort()
    return edge_index[:, order]


def _nearest(edge_index: Tensor, lengths: Tensor, num_atoms: int, k: int) -> Tensor | None:
    """The edges to keep, with a warning, or ``None`` for all of them."""
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"'max_num_neighbors' must be a whole number of at least 1 (got {k!r})")
    degree = torch.bincount(edge_index[1], minlength=num_atoms)
    if num_atoms == 0 or int(degree.max()) <= k:
        return None
    warnings.warn(
        f"max_num_neighbors={k} drops neighbours: an atom has up to {int(degree.max())}. "
        "Energies become discontinuous; use max_num_neighbors=None",
        stacklevel=4,
    )
    by_distance = lengths.argsort(stable=True)
    order = by_distance[edge_index[1][by_distance].argsort(stable=True)]
    target = edge_index[1][order]
    rank = torch.arange(target.numel(), device=target.device) - (degree.cumsum(0) - degree)[target]
    return order[rank < k].sort().values
