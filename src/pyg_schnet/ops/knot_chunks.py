"""Edges sorted by interval of the knots and cut into chunks, on their device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .table import Knots, locate

# Edges that one program sums up: enough to pay for the four rows it leaves behind, and few enough
# that a batch of small molecules, ten thousand edges, keeps a large GPU busy.
CHUNK = 64


@dataclass(frozen=True)
class KnotChunks:
    r"""Runs of edges in one interval of knots each.

    There are as many as there could be: their number depends on shapes only, so that the host
    never waits for the device. The last ones may be empty.

    Attributes:
        order: Positions of edges in plan order, by rising interval, ``[E]`` int32; those out of
            range come last.
        interval: Interval of each chunk, ``[M]`` int32; for edges out of range one more than the
            last.
        begin: First position in ``order`` of each chunk, ``[M]`` int32.
        end: Position after its last, ``[M]`` int32.
        first: First chunk of each interval, and one after the last, ``[intervals + 2]`` int32.
    """

    order: Tensor
    interval: Tensor
    begin: Tensor
    end: Tensor
    first: Tensor

    @classmethod
    def of(cls, distances: Tensor, knots: Knots) -> "KnotChunks":
        """Sorts edges.

        Args:
            distances: Length of each edge, ``[E]``, in plan order.
            knots: The knots.
        """
        device, num_edges, groups = distances.device, distances.numel(), knots.intervals + 1
        index, _, inside = locate(distances.detach(), knots)
        known = inside | distances.isnan()  # the reference lets NaN show in the first rows
        key = torch.where(known, index, knots.intervals).int()
        key, order = torch.sort(key, stable=True)
        bounds = torch.arange(groups + 1, dtype=torch.int32, device=device)
        edge_bounds = torch.searchsorted(key, bounds)  # [groups + 1]
        pieces = (edge_bounds.diff() + CHUNK - 1) // CHUNK
        first = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        # No group leaves more than one chunk unfilled.
        chunks = torch.arange(num_edges // CHUNK + groups, device=device)
        interval = (torch.searchsorted(first, chunks, right=True) - 1).clamp(max=groups - 1)
        begin = edge_bounds[interval] + CHUNK * (chunks - first[interval])
        last = edge_bounds[interval + 1]
        return cls(
            order.int(),
            interval.int(),
            torch.minimum(begin, last).int(),
            torch.minimum(begin + CHUNK, last).int(),
            first.int(),
        )
