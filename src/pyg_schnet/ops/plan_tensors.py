r"""The edges of an :class:`EdgePlan` sorted and matched in plain PyTorch, for any device.

What has to be known about the edges comes to the host in one go: on a GPU every look at a number
waits for all the work before it. A graph in plan order, as the neighbour search makes them, takes
one look and one sort of int32; any other graph a second look, and three sorts more.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_distances, check_indices


class SortedEdges(NamedTuple):
    """Edges by destination, source and distance; see ``EdgePlan`` for the others.

    Attributes:
        source: Sources, ``[E]`` int32.
        target: Destinations, ``[E]`` int32.
        permutation: Where each edge was before, ``[E]`` int64; ``None`` if just there.
        reverse: The reverse of each edge, ``[E]`` int32; ``None`` if the graph is not symmetric.
        extent: The shortest and the longest distance; ``None`` without distances.
    """

    source: Tensor
    target: Tensor
    permutation: Tensor | None
    reverse: Tensor | None
    extent: tuple[float, float] | None


class _Facts(NamedTuple):
    """What is known about edges; numbers on the host."""

    in_range: float
    distances: float
    in_order: float
    symmetric: float
    shortest: float
    longest: float


def sort_edges(
    edge_index: Tensor, num_src: int, num_dst: int, distances: Tensor | None
) -> SortedEdges:
    """Sorts the edges, and finds the reverse of each, with the same distance.

    Args:
        edge_index: Edges, ``[2, E]``.
        num_src: Number of sources.
        num_dst: Number of destinations.
        distances: Length of each edge, ``[E]``. Without them no reverse edges are looked for.

    Raises:
        ValueError: If an index is out of range, or a distance is none.
    """
    edge_index = edge_index.long()
    permutation = None
    transposed, facts = _examined(edge_index, num_src, num_dst, distances)
    if not facts.in_range:
        check_indices(edge_index, num_src, num_dst)
    if not facts.distances and distances is not None:
        check_distances(distances)
    if not facts.in_order:
        key = _key(edge_index, num_src)
        if distances is None:
            permutation = key.argsort(stable=True)
        else:
            permutation = distances.argsort(stable=True)
            permutation = permutation[key[permutation].argsort(stable=True)]
            distances = distances[permutation]
        edge_index = edge_index[:, permutation]
        if distances is not None:
            transposed, facts = _examined(edge_index, num_src, num_dst, distances)
    source, target = edge_index.int()
    return SortedEdges(
        source,
        target,
        permutation,
        transposed.int() if facts.symmetric and transposed is not None else None,
        None if distances is None else (facts.shortest, facts.longest),
    )


def _key(edge_index: Tensor, num_src: int) -> Tensor:
    """Rises with the destination, and then with the source: below 2^62, as atoms are int32."""
    return edge_index[1] * num_src + edge_index[0]


def _examined(
    edge_index: Tensor, num_src: int, num_dst: int, distances: Tensor | None
) -> tuple[Tensor | None, _Facts]:
    """The reverse of each edge, if the graph is in order and symmetric, and whether it is."""
    if edge_index.size(1) == 0:
        matched = num_src == num_dst and distances is not None
        return edge_index[0], _Facts(True, True, True, matched, math.inf, 0.0)
    source, target = edge_index
    key = _key(edge_index, num_src)
    in_range = (
        (source >= 0).all()
        & (source < num_src).all()
        & (target >= 0).all()
        & (target < num_dst).all()
    )
    yes, transposed = torch.ones_like(in_range), None
    in_order, symmetric = (key[1:] >= key[:-1]).all(), torch.zeros_like(in_range)
    if distances is None:
        flags = torch.stack([in_range, yes, in_order, symmetric])
        return None, _Facts(*[*flags.tolist(), math.inf, 0.0])
    shortest, longest = distances.aminmax()  # NaN if any is
    valid = (shortest >= 0) & (longest < math.inf)
    in_order &= ((key[1:] > key[:-1]) | (distances[1:] >= distances[:-1])).all()
    if num_src == num_dst:
        # In order, edges by source are by source, destination, distance: each lies where its
        # reverse does in plan order, if it has one.
        transposed = source.int().argsort(stable=True)
        symmetric = (
            (source[transposed] == target)
            & (target[transposed] == source)
            & (distances[transposed] == distances)
        ).all()
    checks = torch.stack([in_range, valid, in_order, symmetric]).to(distances.dtype)
    return transposed, _Facts(*torch.cat([checks, torch.stack([shortest, longest])]).tolist())
