r"""Neighbours by looking at all pairs of atoms of a system: best for small ones."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..ops.dispatch import use_cpu_kernels
from .distance import edge_vectors, squared_lengths
from .lattice import Lattice

# Candidate pairs examined at once: bounds the memory of large systems to a few hundred MB.
_MAX_CANDIDATES = 1 << 22


def all_pairs(pos: Tensor, r: float, batch: Tensor | None) -> Tensor:
    """Edges ``[2, E]`` of open systems, see :func:`~pyg_schnet.graph.radius_graph`."""
    sizes = _sizes(pos, batch)
    if use_cpu_kernels(pos):
        from ..ops import geometry_kernels

        first, _ = _systems(sizes, pos.size(0))
        edges = geometry_kernels.pairs_within(pos.contiguous().numpy(), first.numpy(), float(r))
        return torch.from_numpy(edges)
    chunks = []
    for source, target in _candidates(sizes, sizes, pos.size(0)):
        squared = squared_lengths(pos[source] - pos[target])
        near = ((squared < r * r) & (source != target)).nonzero()[:, 0]
        chunks.append(torch.stack([source[near], target[near]]))
    return torch.cat(chunks, dim=1)


def all_images(
    pos: Tensor, r: float, batch: Tensor | None, lattice: Lattice
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of periodic systems."""
    sizes = _sizes(pos, batch)
    if use_cpu_kernels(pos):
        from . import kernels

        first, system = _systems(sizes, pos.size(0))
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
        for source, target in _candidates(sizes, sizes * images, pos.size(0))
    ]
    edges = torch.cat([part for part, _ in chunks], dim=1)
    shifts = torch.cat([shift for _, shift in chunks])
    return in_order(pos, batch, lattice.vectors, edges, shifts)


def images_within(
    pos: Tensor, r: float, batch: Tensor | None, vectors: Tensor, edges: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    """Those of the candidates, with shifts ``[E, 3]``, that are within the radius.

    Returns:
        Edges ``[2, n]`` and their shifts ``[n, 3]``.
    """
    squared = squared_lengths(edge_vectors(pos, edges, shifts, vectors, batch))
    itself = (edges[0] == edges[1]) & (shifts == 0).all(dim=1)
    near = ((squared < r * r) & ~itself).nonzero()[:, 0]  # once for both: the host waits for it
    return edges.index_select(1, near), shifts.index_select(0, near)


def in_order(
    pos: Tensor, batch: Tensor | None, vectors: Tensor, edges: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    """Sorts edges by target, source, distance, and shift as the atom of higher index sees it."""
    squared = squared_lengths(edge_vectors(pos, edges, shifts, vectors, batch))
    seen = torch.where(edges[0] > edges[1], -1, 1).unsqueeze(1) * shifts
    order = torch.arange(edges.size(1), device=edges.device)
    for key in (seen[:, 2], seen[:, 1], seen[:, 0], squared, edges[1] * pos.size(0) + edges[0]):
        order = order[key[order].argsort(stable=True)]
    return edges[:, order], shifts[order]


def _sizes(pos: Tensor, batch: Tensor | None) -> Tensor:
    if batch is None:
        return torch.full((1,), pos.size(0), device=pos.device)
    return torch.bincount(batch)


def _systems(sizes: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
    """First atom of each atom's system, and that system, both ``[N]``."""
    system = torch.arange(sizes.numel(), device=sizes.device)
    system = system.repeat_interleave(sizes, output_size=num_atoms)
    return (sizes.cumsum(0) - sizes)[system], system


def _candidates(sizes: Tensor, cost: Tensor, num_atoms: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of atoms of a system as sources and targets, in chunks.

    Args:
        sizes: Atoms of each system, ``[B]``.
        cost: Candidates that an atom of each system stands for, ``[B]``.
        num_atoms: Number N of atoms in all.
    """
    first, system = _systems(sizes, num_atoms)
    candidates = sizes[system]  # [N]
    for part, total in cuts(candidates, _MAX_CANDIDATES, cost[system]):
        target, rank = ranked(candidates[part], total)
        target += part.start
        yield first[target] + rank, target


def cuts(counts: Tensor, most: int, costs: Tensor | None = None) -> Iterator[tuple[slice, int]]:
    """Cuts rows into parts that cost at most so much, but for single rows, with one or two waits.

    Args:
        counts: What is counted, ``[n]``.
        most: What a part may cost.
        costs: Costs of each row, ``[n]``; its count if ``None``.

    Yields:
        The rows of each part, and the sum of their counts.
    """
    ends = torch.stack([counts, counts if costs is None else costs]).cumsum(1)  # [2, n]
    total, cost = ends[:, -1].tolist()
    if cost <= most:
        yield slice(0, counts.size(0)), total
        return
    counted, spent = ends.cpu().numpy()
    start = before = 0
    while start < counts.size(0):
        paid = int(spent[start - 1]) if start > 0 else 0
        stop = max(int(np.searchsorted(spent, paid + most, side="right")), start + 1)
        yield slice(start, stop), int(counted[stop - 1]) - before
        start, before = stop, int(counted[stop - 1])


def ranked(counts: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Each row as often as its count says, and the how-manieth time, both ``[total]``."""
    rows = torch.arange(counts.size(0), device=counts.device)
    rows = rows.repeat_interleave(counts, output_size=total)
    before = counts.cumsum(0) - counts
    return rows, torch.arange(rows.size(0), device=rows.device) - before.index_select(0, rows)


def boxes(low: Tensor, counts: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """All points of integer boxes, the last axis first.

    Args:
        low: Lowest corner of each box, ``[P, 3]``.
        counts: Points of each along the axes, ``[P, 3]``.
        total: Number n of all points, if known.

    Returns:
        The box of each point, ``[n]``, and the point, ``[n, 3]``.
    """
    box, rank = ranked(counts.prod(dim=1), total)
    last, middle = counts[box, 2], counts[box, 1]
    steps = torch.stack([rank // (last * middle), rank // last % middle, rank % last], dim=1)
    return box, low[box] + steps


def _images(
    source: Tensor, target: Tensor, batch: Tensor | None, lattice: Lattice
) -> tuple[Tensor, Tensor]:
    """Images of each pair that may be within the radius: edges ``[2, E]``, shifts ``[E, 3]``."""
    reach = lattice.reach[0] if batch is None else lattice.reach[batch[target]]
    apart = lattice.fractional[source] - lattice.fractional[target]  # [P, 3]
    low = (-reach - apart).ceil()
    counts = ((reach - apart).floor() - low + 1).clamp(min=0).long()
    pair, shifts = boxes(low, counts)
    return torch.stack([source[pair], target[pair]]), shifts.to(lattice.vectors.dtype)
