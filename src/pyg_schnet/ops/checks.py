"""Checks of edges and distances, beyond what the kernels notice by themselves."""

import math

import torch
from torch import Tensor

from .table import Knots


def check_sizes(num_edges: int, num_src: int, num_dst: int) -> None:
    """Refuses more than 32-bit integers can count."""
    if max(num_edges, num_src, num_dst) >= 2**31 - 1:
        raise ValueError(
            f"a plan holds fewer than 2^31 edges and atoms (got {num_edges} edges from {num_src} "
            f"to {num_dst} atoms)"
        )


def check_indices(edge_index: Tensor, num_src: int, num_dst: int) -> None:
    """Refuses atoms that are not there."""
    if edge_index.numel() == 0:
        return
    for row, (name, count) in enumerate((("source", num_src), ("destination", num_dst))):
        low, high = (int(bound) for bound in edge_index[row].aminmax())
        if low < 0 or high >= count:
            raise ValueError(
                f"edge_index[{row}] must hold {name} atoms from 0 to {count - 1} "
                f"(got {low if low < 0 else high})"
            )


def check_distances(distances: Tensor) -> None:
    """Refuses what is no distance."""
    wrong = ~((distances >= 0) & (distances < math.inf))
    if wrong.any():
        edge = int(wrong.nonzero()[0])
        raise ValueError(
            f"distances must be finite and not negative (got {float(distances[edge]):g} for edge "
            f"{edge}): check the positions"
        )


def check_range(low: float, high: float, knots: Knots) -> None:
    """Refuses distances from ``low`` to ``high`` for which there are no knots."""
    if not (low >= 0.0 and high < math.inf):
        raise ValueError(
            "distances must be finite and not negative (got values from "
            f"{low:g} to {high:g}): check the positions"
        )
    if not knots.vanishes and (high - knots.start) / knots.spacing >= knots.limit:
        raise ValueError(
            f"distance {high:.6g} lies beyond the range of the filter, which ends at "
            f"{knots.stop:.6g} and has no envelope: use a larger range or a cutoff"
        )


def extent_of(distances: Tensor) -> tuple[float, float]:
    """The shortest and the longest distance."""
    if distances.numel() == 0:
        return math.inf, 0.0
    low, high = torch.stack(distances.aminmax()).tolist()  # one wait for the device
    return low, high
