r"""Neighbour search: which atoms see each other.

Edges are directed as in PyG: ``edge_index[0]`` is the source :math:`j`, ``edge_index[1]`` the
target :math:`i`. They are sorted by target, then by source, and both directions of every pair are
there.
"""

import warnings

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from .ops.dispatch import use_cpu_kernels

# Candidate pairs examined at once: bounds the memory of large systems to a few hundred MB.
_MAX_CANDIDATES = 1 << 22


def radius_graph(
    pos: Tensor,
    r: float,
    batch: Tensor | None = None,
    *,
    max_num_neighbors: int | None = None,
    backend: str = "torch",
) -> Tensor:
    r"""Connects all atoms of a molecule that are closer than ``r``.

    The graph is complete within the radius: unlike :func:`torch_geometric.nn.radius_graph` it
    keeps every neighbour unless told otherwise, and then says so.

    Args:
        pos: Positions, ``[N, D]`` in any dimension D.
        r: Radius in the unit of ``pos``; pairs at a distance of exactly ``r`` are left out, as in
            ASE. ``math.inf`` gives all pairs.
        batch: Molecule of each atom, ``[N]``, sorted. One molecule if ``None``.
        max_num_neighbors: Keep only so many nearest neighbours of each atom, with a warning
            where that drops any. A truncated graph is not symmetric, and energies on it jump.
        backend: ``"torch"``, or ``"torch-cluster"`` if that package is installed. Both give the
            same edges.

    Returns:
        ``edge_index``, ``[2, E]``, sorted by target and then by source.

    Raises:
        ValueError: If shapes do not match, positions are not finite, or ``batch`` is not sorted.

    >>> import torch
    >>> radius_graph(torch.tensor([[0.0], [1.0], [3.0]]), r=2.5)
    tensor([[1, 0, 2, 1],
            [0, 1, 1, 2]])
    """
    pos = pos.detach()
    check_positions(pos, r, batch)
    return neighbors(pos, r, batch, max_num_neighbors, backend)


def neighbors(
    pos: Tensor,
    r: float,
    batch: Tensor | None,
    max_num_neighbors: int | None = None,
    backend: str = "torch",
) -> Tensor:
    """The edges of :func:`radius_graph`, of atoms that have been checked already."""
    if pos.size(0) == 0:
        return torch.empty(2, 0, dtype=torch.long, device=pos.device)
    if backend == "torch" and use_cpu_kernels(pos):
        edge_index = _pairs_on_cpu(pos, r, batch)
    elif backend == "torch":
        edge_index = _all_pairs(pos, r, batch)
    elif backend == "torch-cluster":
        edge_index = _torch_cluster(pos, r, batch)
    else:
        raise ValueError(f"'backend' must be 'torch' or 'torch-cluster' (got '{backend}')")
    if max_num_neighbors is not None:
        edge_index = _nearest(pos, edge_index, max_num_neighbors)
    return edge_index


def edge_lengths(pos: Tensor, edge_index: Tensor) -> Tensor:
    r"""Distances :math:`d_e = |r_j - r_i|` along the edges.

    Differentiable any number of times. Coincident atoms get distance zero with zero derivative
    instead of NaN.

    Args:
        pos: Positions, ``[N, D]``.
        edge_index: Edges, ``[2, E]``.

    Returns:
        Distances, ``[E]``.
    """
    # index_select has a much faster backward pass than indexing.
    source, target = (pos.index_select(0, index) for index in edge_index)
    squared = (source - target).square().sum(dim=-1)  # [E]
    apart = squared > 0
    return torch.where(apart, squared, 1.0).sqrt() * apart


def molecule_edges(pos: Tensor, r: float, ptr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""What :class:`RadiusGraph` stores for each of several molecules, in one pass.

    Args:
        pos: Positions of all atoms on the CPU, ``[N, D]``, finite.
        r: Radius in the unit of ``pos``.
        ptr: Where each of B molecules begins, ``[B + 1]`` from 0 to N.

    Returns:
        Edges ``[2, E]`` between the N atoms, their lengths ``[E]``, and where the edges of each
        molecule begin, ``[B + 1]``.
    """
    if pos.size(1) == 3 and use_cpu_kernels(pos) and _are_small(ptr):
        from .ops import geometry_kernels

        arrays = geometry_kernels.molecules_within(
            pos.detach().contiguous().numpy(), ptr.numpy(), float(r)
        )
        edge_index, squared, starts = map(torch.from_numpy, arrays)
        # Not a root of Numba's: PyTorch's may differ in the last bit.
        return edge_index, squared.sqrt(), starts
    batch = torch.arange(ptr.numel() - 1).repeat_interleave(ptr.diff())
    edge_index = neighbors(pos.detach(), r, batch)
    return (
        edge_index,
        edge_lengths(pos.detach(), edge_index),
        torch.searchsorted(edge_index[1].contiguous(), ptr),
    )


class RadiusGraph(BaseTransform):
    r"""Stores the radius graph of a molecule in its ``Data`` object.

    Sets ``edge_index`` ``[2, E]``, the distances ``edge_weight`` ``[E]`` and, unless neighbours may
    have been dropped, the radius itself as ``cutoff`` ``[1]``, by which a model notices edges too
    short for it.

    Args:
        r: Radius in the unit of ``pos``.
        max_num_neighbors: See :func:`radius_graph`.
        backend: See :func:`radius_graph`.
    """

    def __init__(self, r: float, max_num_neighbors: int | None = None, backend: str = "torch"):
        if not r > 0:
            raise ValueError(f"'r' must be positive (got {r})")
        self.r = r
        self.max_num_neighbors = max_num_neighbors
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Adds the edges to ``data``, which needs ``pos`` and may have ``batch``."""
        if data.pos is None:
            raise ValueError("RadiusGraph needs positions, but 'data.pos' is None")
        if data.edge_attr is not None:
            raise ValueError(
                "RadiusGraph would replace 'edge_index' and leave 'edge_attr' behind: chemical "
                "bonds belong in 'bond_index' and 'bond_attr'"
            )
        data.edge_index = edges = radius_graph(
            data.pos,
            self.r,
            data.batch,
            max_num_neighbors=self.max_num_neighbors,
            backend=self.backend,
        )
        data.edge_weight = edge_lengths(data.pos, edges)
        limit = self.max_num_neighbors
        if limit is None or int(torch.bincount(edges[1], minlength=1).max()) < limit:
            num_graphs = 1 if data.batch is None else num_molecules(data)
            data.cutoff = torch.full((num_graphs,), float(self.r))
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(r={self.r})"


def num_molecules(data: Data) -> int:
    """Number of molecules of a batch, also of one that was put together by hand."""
    if isinstance(data, Batch):
        return data.num_graphs
    if data.batch is None:
        return 1
    return int(data.batch.max()) + 1 if data.batch.numel() > 0 else 0


def check_positions(pos: Tensor, r: float, batch: Tensor | None) -> None:
    """Refuses what :func:`radius_graph` refuses."""
    if not pos.is_floating_point():
        raise TypeError(f"'pos' must hold floating-point numbers (got {pos.dtype})")
    if pos.dim() != 2:
        raise ValueError(f"'pos' must have shape [N, D] (got {list(pos.shape)})")
    if not r > 0:
        raise ValueError(f"'r' must be positive (got {r})")
    finite = pos.isfinite().all(dim=-1)
    if not finite.all():
        atom = int((~finite).nonzero()[0])
        raise ValueError(f"positions must be finite (got {pos[atom].tolist()} for atom {atom})")
    if batch is None:
        return
    if batch.shape != pos.shape[:1]:
        raise ValueError(
            f"'batch' must have one entry per atom (got shape {list(batch.shape)} "
            f"for {pos.size(0)} atoms)"
        )
    if (batch.diff() < 0).any():
        raise ValueError(
            "'batch' must be sorted, so that molecules are contiguous: reorder the atoms by "
            "'order = batch.argsort(stable=True)' first"
        )
    if batch.numel() > 0 and batch[0] < 0:
        raise ValueError(f"'batch' must not be negative (got {int(batch[0])})")


def _are_small(ptr: Tensor) -> bool:
    """Whether all pairs of atoms within molecules fit into a few MB."""
    bound = int(ptr[-1]) ** 2
    return bound <= _MAX_CANDIDATES or int(ptr.diff().square().sum()) <= _MAX_CANDIDATES


def _pairs_on_cpu(pos: Tensor, r: float, batch: Tensor | None) -> Tensor:
    from .ops import geometry_kernels

    first = torch.zeros(pos.size(0), dtype=torch.long, device="cpu")
    if batch is not None:
        sizes = torch.bincount(batch)
        first = (sizes.cumsum(0) - sizes)[batch]
    edges = geometry_kernels.pairs_within(pos.contiguous().numpy(), first.numpy(), float(r))
    return torch.from_numpy(edges)


def _all_pairs(pos: Tensor, r: float, batch: Tensor | None) -> Tensor:
    num_atoms = pos.size(0)
    if batch is None:
        batch = torch.zeros(num_atoms, dtype=torch.long, device=pos.device)
    sizes = torch.bincount(batch)  # atoms of each molecule
    first = sizes.cumsum(0) - sizes  # its first atom
    candidates = sizes[batch]  # [N] as many for each atom as its molecule has atoms
    ends = candidates.cumsum(0)
    chunks = []
    start = 0
    while start < num_atoms:
        begin = int(ends[start - 1]) if start else 0
        stop = int(torch.searchsorted(ends, begin + _MAX_CANDIDATES, right=True))
        stop = max(stop, start + 1)
        count = candidates[start:stop]
        target = torch.arange(start, stop, device=pos.device).repeat_interleave(count)
        rank = torch.arange(target.numel(), device=pos.device) - (
            ends[target] - candidates[target] - begin
        )
        source = first[batch[target]] + rank
        squared = (pos[source] - pos[target]).square().sum(dim=-1)
        keep = (squared < r * r) & (source != target)
        chunks.append(torch.stack([source[keep], target[keep]]))
        start = stop
    return torch.cat(chunks, dim=1)


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


def _nearest(pos: Tensor, edge_index: Tensor, k: int) -> Tensor:
    if k < 1:
        raise ValueError(f"'max_num_neighbors' must be at least 1 (got {k})")
    degree = torch.bincount(edge_index[1], minlength=pos.size(0))
    if int(degree.max()) <= k:
        return edge_index
    warnings.warn(
        f"max_num_neighbors={k} drops neighbours: an atom has up to {int(degree.max())}. "
        "Energies become discontinuous; use max_num_neighbors=None",
        stacklevel=4,
    )
    by_distance = edge_lengths(pos, edge_index).argsort(stable=True)
    order = by_distance[edge_index[1][by_distance].argsort(stable=True)]
    target = edge_index[1][order]
    rank = torch.arange(target.numel(), device=pos.device) - (degree.cumsum(0) - degree)[target]
    return edge_index[:, order[rank < k].sort().values]
