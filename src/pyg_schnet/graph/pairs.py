r"""Neighbours by looking at all pairs of atoms of a system: best for small ones."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels
from .distance import edge_vectors
from .lattice import Lattice

# Candidate pairs examined at once: bounds the memory of large systems to a few hundred MB.
_MAX_CANDIDATES = 1 << 22


def all_pairs(pos: Tensor, r: float, batch: Tensor | None) -> Tensor:
    """Edges ``[2, E]`` of open systems, see :func:`~pyg_schnet.graph.radius_graph`."""
    sizes = _sizes(pos, batch)
    if use_cpu_kernels(pos):
        from ..ops import geometry_kernels

        first, _ = _systems(sizes)
        edges = geometry_kernels.pairs_within(pos.contiguous().numpy(), first.numpy(), float(r))
        return torch.from_numpy(edges)
    chunks = []
    for source, target in _candidates(sizes, sizes):
        squared = (pos[source] - pos[target]).square().sum(dim=-1)
        keep = (squared < r * r) & (source != target)
        chunks.append(torch.stack([source[keep], target[keep]]))
    return torch.cat(chunks, dim=1)


def all_images(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of periodic systems."""
    sizes = _sizes(pos, batch)
    if use_cpu_kernels(pos):
        from . import kernels

        first, system = _systems(sizes)
        half = kernels.half_images(
            pos.contiguous().numpy(),
            first.numpy(),
            system.numpy(),
            lattice.vectors.numpy(),
            lattice.fractional.numpy(),
            lattice.reach.numpy(),
            float(r),
        )
        arrays = kernels.both_ways(*half, pos.size(0))
        return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    images = (2.0 * lattice.reach[: sizes.numel()] + 1.0).floor().prod(dim=1).long()  # at most
    chunks = [
        images_within(pos, r, batch, lattice.vectors, *_images(source, target, batch, lattice))
        for source, target in _candidates(sizes, sizes * images)
    ]
    edges, shifts = (torch.cat(parts, dim=-1) for parts in zip(*chunks))
    return in_order(pos, batch, lattice.vectors, edges, shifts.T)


def images_within(
    pos: Tensor, r: float, batch: Tensor | None, vectors: Tensor, edges: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    """Those of the candidates, with shifts ``[E, 3]``, that are within the radius.

    Returns:
        Edges ``[2, n]`` and their shifts, transposed: ``[3, n]``.
    """
    squared = edge_vectors(pos, edges, shifts, vectors, batch).square().sum(dim=-1)
    itself = (edges[0] == edges[1]) & (shifts == 0).all(dim=1)
    keep = (squared < r * r) & ~itself
    return edges[:, keep], shifts[keep].T


def in_order(
    pos: Tensor, batch: Tensor | None, vectors: Tensor, edges: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    """Sorts edges by target, source, distance, and shift as the atom of higher index sees it."""
    squared = edge_vectors(pos, edges, shifts, vectors, batch).square().sum(dim=-1)
    seen = torch.where(edges[0] > edges[1], -1, 1).unsqueeze(1) * shifts
    order = torch.arange(edges.size(1), device=edges.device)
    for key in (seen[:, 2], seen[:, 1], seen[:, 0], squared, edges[1] * pos.size(0) + edges[0]):
        order = order[key[order].argsort(stable=True)]
    return edges[:, order], shifts[order]


def _sizes(pos: Tensor, batch: Tensor | None) -> Tensor:
    if batch is None:
        return torch.full((1,), pos.size(0), device=pos.device)
    return torch.bincount(batch)


def _systems(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """First atom of each atom's system, and that system, both ``[N]``."""
    system = torch.arange(sizes.numel(), device=sizes.device).repeat_interleave(sizes)
    return (sizes.cumsum(0) - sizes)[system], system


def _candidates(sizes: Tensor, cost: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of atoms of a system as sources and targets, in chunks.

    Args:
        sizes: Atoms of each system, ``[B]``.
        cost: Candidates that an atom of each system stands for, ``[B]``.
    """
    first, system = _systems(sizes)
    num_atoms = system.numel()
    candidates = sizes[system]  # [N]
    ends = candidates.cumsum(0)
    costs = cost[system].cumsum(0)
    start = 0
    while start < num_atoms:
        begin = int(ends[start - 1]) if start else 0
        spent = int(costs[start - 1]) if start else 0
        stop = int(torch.searchsorted(costs, spent + _MAX_CANDIDATES, right=True))
        stop = max(stop, start + 1)
        count = candidates[start:stop]
        target = torch.arange(start, stop, device=sizes.device).repeat_interleave(count)
        rank = torch.arange(target.numel(), device=sizes.device) - (
            ends[target] - candidates[target] - begin
        )
        yield first[target] + rank, target
        start = stop


def _images(
    source: Tensor, target: Tensor, batch: Tensor | None, lattice: Lattice
) -> tuple[Tensor, Tensor]:
    """Images of each pair that may be within the radius: edges ``[2, E]``, shifts ``[E, 3]``."""
    reach = lattice.reach[0] if batch is None else lattice.reach[batch[target]]
    apart = lattice.fractional[source] - lattice.fractional[target]  # [P, 3]
    low = (-reach - apart).ceil()
    counts = ((reach - apart).floor() - low + 1).clamp(min=0).long()
    total = counts.prod(dim=1)
    pair = torch.arange(source.numel(), device=source.device).repeat_interleave(total)
    rank = torch.arange(pair.numel(), device=source.device) - (total.cumsum(0) - total)[pair]
    last, middle = counts[pair, 2], counts[pair, 1]
    steps = torch.stack([rank // (last * middle), rank // last % middle, rank % last], dim=1)
    shifts = (low[pair] + steps).to(lattice.vectors.dtype)
    return torch.stack([source[pair], target[pair]]), shifts
