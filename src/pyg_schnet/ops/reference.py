r"""The three primitives of the continuous-filter convolution in plain PyTorch.

They define the result on every device and in every dtype. With edges :math:`e = (j \to i)`, the
:math:`k`-th derivative :math:`W^{(k)}` of the interpolated filter and optional edge weights
:math:`c_e`,

.. math::
    \text{reduce}\quad  & R_k(x, d, T, c)_i = \sum_{e \to i} c_e\, x_j \odot W^{(k)}(d_e)
        && [N_\text{dst}, F] \\
    \text{product}\quad & P_k(g, x, d, T)_e = \sum_f g_{if}\, x_{jf}\, W_f^{(k)}(d_e) && [E] \\
    \text{collect}\quad & C_k(g, x, d, c) = \sum_e c_e\, B^{(k)}(d_e) \otimes (g_i \odot x_j)
        && [K, F]

All values per edge are in the order of the plan, see :meth:`EdgePlan.arrange`. Here, other than in
the kernels, tensors of shape ``[E, F]`` do arise.
"""

import math

import torch
from torch import Tensor

from .plan import EdgePlan
from .table import locate, spline_basis


def reduce(
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: EdgePlan,
    order: int = 0,
    weight: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    r"""Sums filtered features of the sources of each atom.

    Args:
        x: Features of the sources, ``[num_src, F]``; with ``transposed`` those of the
            destinations, ``[num_dst, F]``.
        distances: Length of each edge, ``[E]``, in the order of the plan.
        table: Spline coefficients of the filter, ``[K, F]``.
        plan: The edges.
        order: Derivative k of the filter.
        weight: Weight c of each edge, ``[E]``, in the order of the plan.
        transposed: Walk the edges from destination to source.

    Returns:
        ``[num_dst, F]``; ``[num_src, F]`` with ``transposed``.
    """
    source, target = plan.source, plan.target
    if transposed:
        source, target = target, source
    messages = x.index_select(0, source) * interpolate(distances, table, plan, order)  # [E, F]
    if weight is not None:
        messages = messages * weight.unsqueeze(-1)
    out = messages.new_zeros(plan.num_src if transposed else plan.num_dst, table.size(1))
    return out.index_add(0, target, messages)


def product(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan, order: int = 0
) -> Tensor:
    r"""Sums over the features of each edge.

    Args:
        g: Features of the destinations, ``[num_dst, F]``.
        x: Features of the sources, ``[num_src, F]``.
        distances: Length of each edge, ``[E]``, in the order of the plan.
        table: Spline coefficients of the filter, ``[K, F]``.
        plan: The edges.
        order: Derivative k of the filter.

    Returns:
        ``[E]``, in the order of the plan.
    """
    pairs = g.index_select(0, plan.target) * x.index_select(0, plan.source)  # [E, F]
    return (pairs * interpolate(distances, table, plan, order)).sum(dim=-1)


def collect(
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    rows: int,
    plan: EdgePlan,
    order: int = 0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Sums products of features into the rows of the table.

    Args:
        g: Features of the destinations, ``[num_dst, F]``.
        x: Features of the sources, ``[num_src, F]``.
        distances: Length of each edge, ``[E]``, in the order of the plan.
        rows: Number K of rows of the table.
        plan: The edges.
        order: Derivative k of the splines.
        weight: Weight c of each edge, ``[E]``, in the order of the plan.

    Returns:
        ``[K, F]``.
    """
    index, basis = taps(distances, plan, order)
    pairs = g.index_select(0, plan.target) * x.index_select(0, plan.source)  # [E, F]
    if weight is not None:
        pairs = pairs * weight.unsqueeze(-1)
    out = pairs.new_zeros(rows, pairs.size(1))
    for tap in range(4):
        out = out.index_add(0, index + tap, pairs * basis[:, tap : tap + 1])
    return out


def taps(distances: Tensor, plan: EdgePlan, order: int) -> tuple[Tensor, Tensor]:
    """First of the four rows of the table for each edge ``[E]``, and their weights ``[E, 4]``."""
    knots = plan.require_knots()
    index, offset, inside = locate(distances, knots)
    # A product would keep NaN; a distance that is not a number must not pass as zero.
    basis = torch.where(
        (inside | distances.isnan()).unsqueeze(-1), spline_basis(offset, knots.spacing, order), 0.0
    )
    return index, basis


def interpolate(distances: Tensor, table: Tensor, plan: EdgePlan, order: int = 0) -> Tensor:
    r"""The filter on edges, :math:`W^{(k)}(d_e)`, ``[E, F]``."""
    index, basis = taps(distances, plan, order)
    out = basis[:, :1] * table.index_select(0, index)
    for tap in range(1, 4):
        out = out + basis[:, tap : tap + 1] * table.index_select(0, index + tap)
    return out


def reduce_backward(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan
) -> tuple[Tensor, Tensor]:
    r"""Gradients of ``reduce(x, distances, table, plan)`` with cotangent g.

    Returns:
        Those by x, ``[num_src, F]``, and by the distances, ``[E]`` in the order of the plan.
    """
    return (
        reduce(g, distances, table, plan, transposed=True),
        product(g, x, distances, table, plan, order=1),
    )


def reduce_double_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    s: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: EdgePlan,
    for_distances: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Gradients of :func:`reduce_backward` with cotangents y ``[num_src, F]`` and s ``[E]``.

    Returns:
        Those by g, ``[num_dst, F]``, by x, ``[num_src, F]``, and by the distances, ``[E]`` in the
        order of the plan, or ``None`` unless ``for_distances``.
    """
    dg = reduce(y, distances, table, plan) + reduce(x, distances, table, plan, 1, s)
    dx = reduce(g, distances, table, plan, 1, s, transposed=True)
    dd = None
    if for_distances:
        dd = product(g, y, distances, table, plan, 1)
        dd = dd + s * product(g, x, distances, table, plan, 2)
    return dg, dx, dd


def collect_backward(
    g: Tensor, x: Tensor, y: Tensor, s: Tensor, distances: Tensor, rows: int, plan: EdgePlan
) -> Tensor:
    r"""Gradient of :func:`reduce_backward` by the table, with cotangents y and s.

    Returns:
        :math:`C_0(g, y) + C_1(g, x, s)`, ``[K, F]``.
    """
    return collect(g, y, distances, rows, plan) + collect(g, x, distances, rows, plan, 1, s)


def softplus_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shifted softplus and its derivative, for what is differentiated by hand."""
    return torch.nn.functional.softplus(x, threshold=40.0) - math.log(2.0), torch.sigmoid(x)
