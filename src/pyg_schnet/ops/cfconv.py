r"""The continuous-filter convolution."""

import torch
from torch import Tensor

from . import library, reference
from .dispatch import kernels_for, selected_backend, transforming
from .functions import Eager
from .plan import EdgePlan


def cfconv(
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: EdgePlan,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Continuous-filter convolution with an interpolated filter.

    .. math::
        y_i = \sum_{e = (j \to i)} c_e\, x_j \odot W(d_e), \qquad
        W(d) = \sum_{m=0}^{3} B_m(u)\, T_{k+m}

    from `SchNet: A continuous-filter convolutional neural network for modeling quantum
    interactions <https://arxiv.org/abs/1706.08566>`_. Differentiable in all tensors any number of
    times; on the CPU and on GPUs with Triton neither the result nor its derivatives make a tensor
    of shape ``[E, F]``.
    Under autocast all of it is float32. In compiled and exported graphs it is an operator
    ``pyg_schnet::reduce``, or plain PyTorch with ``backend("reference")``.

    Args:
        x: Features of the source atoms, ``[num_src, F]``.
        distances: Length of each edge, ``[E]``, in the user's order: those the plan was
            built from, where they may require gradients.
        table: Coefficients of the filter, ``[K, F]``, from :func:`spline_table`.
        plan: The edges, with knots.
        weight: Weight c of each edge, ``[E]``, in the user's order; one if ``None``.

    Returns:
        Features of the destination atoms, ``[num_dst, F]``.

    Raises:
        ValueError: If shapes do not match or the plan has no knots.
        TypeError: If dtypes differ.
    """
    if torch.is_autocast_enabled(x.device.type):
        # Sums over neighbours, and a table's small differences, want all digits of float32.
        dtype = torch.promote_types(torch.promote_types(x.dtype, table.dtype), torch.float32)
        x, distances, table = x.to(dtype), distances.to(dtype), table.to(dtype)
        weight = None if weight is None else weight.to(dtype)
    _check(x, distances, table, plan, weight)
    distances = plan.arrange(distances)
    if weight is not None:
        weight = plan.arrange(weight)
    if transforming() or x.size(1) == 0:  # kernels have loops over features
        return reference.reduce(x, distances, table, plan, 0, weight)
    if not torch.compiler.is_compiling():
        return Eager(plan, kernels_for(x)).reduce(x, distances, table, weight, 0, False)
    if selected_backend(x) == "reference":
        return reference.reduce(x, distances, table, plan, 0, weight)
    return library.Compiled.of(plan).reduce(x, distances, table, weight, 0, False)


def _check(
    x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan, weight: Tensor | None
) -> None:
    knots = plan.require_knots()
    if x.dim() != 2 or x.size(0) != plan.num_src:
        raise ValueError(
            f"'x' must have shape [{plan.num_src}, F], one row per source atom of the plan "
            f"(got {list(x.shape)})"
        )
    if table.shape != (knots.rows, x.size(1)):
        raise ValueError(
            f"'table' must have shape [{knots.rows}, {x.size(1)}] for the knots of the plan and "
            f"the features of 'x' (got {list(table.shape)})"
        )
    for name, value in (("distances", distances), ("weight", weight)):
        if value is None:
            continue
        if value.shape != plan.source.shape:
            raise ValueError(
                f"'{name}' must have shape [{plan.num_edges}], one per edge of the plan "
                f"(got {list(value.shape)})"
            )
        if value.dtype != x.dtype:
            raise TypeError(f"'{name}' must be {x.dtype} like 'x' (got {value.dtype})")
    if (
        not x.device
        == table.device
        == distances.device
        == plan.source.device
        == (x.device if weight is None else weight.device)
    ):
        raise ValueError(
            "'x', 'table', the values per edge and the plan must be on one device (got "
            f"{x.device}, {table.device}, {distances.device} and {plan.source.device})"
        )
    if table.dtype != x.dtype:
        raise TypeError(f"'table' must be {x.dtype} like 'x' (got {table.dtype})")
