r"""Filters on radial knots: which filters allow it, and how their tables are made.

A filter of one distance can be sampled on a few hundred radial knots and interpolated, instead of
being evaluated on every edge, see :mod:`pyg_schnet.ops.table`. A filter module offers that by
stating two numbers:

- ``length_scale``: the width in angstrom of the finest structure it can have;
- ``d_min``: the smallest distance at which it is smooth; below, it is evaluated on edges.

Two more are optional: ``d_max``, the end of its range (there is none if it is missing), and
``vanishes``, whether it is zero from there on (it is not if it is missing). Its values must depend
on nothing but the distance and the weights: no dropout, no normalisation over edges.
"""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from ..ops import Knots, spline_table
from .filters import GaussianFilter, RadialFilter
from .radial import (
    BesselBasis,
    CosineEnvelope,
    GaussianBasis,
    GaussianSmearing,
    PolynomialEnvelope,
    ShiftedSoftplus,
)

# Knots per length scale. Filters are then exact to 3e-7 of their largest value and forces to 3e-5,
# of which float32 weights alone make 1e-5: their rounding, over so short a distance, is a slope.
FINENESS = 10.0
# The filters that make their tables themselves, and their parts as these were built.
_FILTERS = {GaussianFilter, RadialFilter}
_ORIGINALS = {
    *(BesselBasis, CosineEnvelope, GaussianBasis, GaussianSmearing),
    *(Linear, PolynomialEnvelope, ShiftedSoftplus),
}
# Filters without a range get tables up to so many angstrom, or to the longest edge.
_UNBOUNDED = 1e6
# Where a filter is not smooth, no number of knots is enough.
_MAX_INTERVALS = 1 << 14


def offers_table(filter: Callable) -> bool:
    """Whether a filter states what is needed to sample it on knots, and nobody listens to it."""
    if isinstance(filter, nn.Module) and is_hooked(filter):
        return False
    return hasattr(filter, "length_scale") and hasattr(filter, "d_min")


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody listens to a module, forward or backward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def knots_of(filter: Any, fineness: float = FINENESS) -> Knots:
    """Knots over the whole range of a filter.

    Args:
        filter: A filter that offers tables.
        fineness: Knots per length scale.
    """
    d_max = getattr(filter, "d_max", math.inf)
    return Knots.spanning(
        filter.length_scale,
        d_max if d_max < math.inf else _UNBOUNDED,
        start=filter.d_min,
        vanishes=getattr(filter, "vanishes", False) and d_max < math.inf,
        fineness=fineness,
    )


def table_of(filter: Any, knots: Knots, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""Spline coefficients of a filter, differentiable in its weights.

    Args:
        filter: A filter that offers tables.
        knots: Knots within its range.
        dtype: Dtype of its weights.
        device: Device of its weights.

    Returns:
        Table ``[K, F]``.
    """
    if has_own_table(filter):
        return filter.table(knots)
    return spline_table(*_sample(filter, knots, dtype, device), knots.spacing)


def has_own_table(filter: Any) -> bool:
    """Whether a filter makes its table itself, from basis functions that are evaluated only once.

    Its parts are then as they were built, and nobody listens to them.
    """
    original = type(filter) in _FILTERS and not any(map(_altered, filter._modules.values()))
    return original and filter.has_constant_basis


def frozen_table(filter: Any, knots: Knots | None = None) -> tuple[Knots, Tensor]:
    r"""A table for inference, on knots dense enough for the present weights.

    They are made twice as dense until halfway between them the error is below 1e-6 of the largest
    filter value.

    Args:
        filter: A filter.
        knots: Knots to begin with; those of training if ``None``.

    Returns:
        The knots and the table ``[K, F]``, in float64 on the CPU.

    Raises:
        ValueError: If the filter offers no table, or has no end.
    """
    name = type(filter).__name__
    if not offers_table(filter):
        raise ValueError(
            f"the filter {name} offers no table: it must state its 'length_scale' and 'd_min'"
        )
    knots = knots_of(filter) if knots is None else knots
    if knots.intervals >= _MAX_INTERVALS:
        raise ValueError(
            f"the filter {name} states no end of its range: it must have a 'd_max' to be frozen"
        )
    table, error = sampled(filter, knots)
    while error > 1e-6 and knots.intervals < _MAX_INTERVALS:
        knots = knots.halved()
        table, error = sampled(filter, knots)
    if error > 1e-6:
        warnings.warn(
            f"the frozen table is exact to {error:.1e} of the largest filter value only: the "
            "filter is not smooth on the scale of its 'length_scale'",
            stacklevel=3,
        )
    return knots, table


@torch.no_grad()
def sampled(filter: Any, knots: Knots) -> tuple[Tensor, float]:
    """A table for inference, made in float64 so that rounding does not roughen its slopes.

    Args:
        filter: A filter that offers tables.
        knots: Knots within its range.

    Returns:
        Table ``[K, F]`` in float64 on the CPU, and its error halfway between knots, relative to
        the largest filter value.
    """
    filter = copy.deepcopy(filter).cpu().double()
    device = torch.device("cpu")
    table = table_of(filter, knots, torch.float64, device)
    exact = filter(knots.positions(torch.float64, device)[:-1] + 0.5 * knots.spacing)
    taps = table.new_tensor([1.0, 23.0, 23.0, 1.0]) / 48.0  # cubic B-splines at u = 1/2
    error = (table.unfold(0, 4, 1) @ taps - exact).abs().max()
    return table, float(error / exact.abs().max().clamp(min=1e-30))


def _altered(part: Any) -> bool:
    """Whether a part of a filter was exchanged, or somebody listens to it."""
    return part is not None and (type(part) not in _ORIGINALS or is_hooked(part))


def _sample(
    filter: Any, knots: Knots, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    values = filter(knots.positions(dtype, device))
    ends = values.new_tensor([knots.start, knots.stop])
    if knots.vanishes:
        return values, torch.cat([_slope(filter, ends[:1]), torch.zeros_like(values[:1])])
    return values, _slope(filter, ends)


def _slope(filter: Callable, distance: Tensor) -> Tensor:
    """Derivative of a filter at some distances, ``[E, F]``, differentiable in its weights."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        _, slope = torch.autograd.functional.jvp(
            filter, distance, torch.ones_like(distance), create_graph=create_graph
        )
    return slope
