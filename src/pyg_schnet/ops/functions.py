r"""The primitives as autograd Functions, closed under differentiation.

With a cotangent of each output,

.. math::
    R_k(x, d, T, c):\quad & \bar x = R_k^\top(\bar R, c), \quad \bar d = c\, P_{k+1}(\bar R, x),
        \quad \bar T = C_k(\bar R, x, c), \quad \bar c = P_k(\bar R, x) \\
    P_k(g, x, d, T):\quad & \bar g = R_k(x, \bar P), \quad \bar x = R_k^\top(g, \bar P), \quad
        \bar d = \bar P\, P_{k+1}(g, x), \quad \bar T = C_k(g, x, \bar P) \\
    C_k(g, x, d, c):\quad & \bar g = R_k(x, \bar C, c), \quad \bar x = R_k^\top(g, \bar C, c), \quad
        \bar d = c\, P_{k+1}(g, x, \bar C), \quad \bar c = P_k(g, x, \bar C)

where :math:`R^\top` walks the edges from destination to source, and the bar over C is used as a
table. All orders of derivative follow, and none needs a tensor of shape ``[E, F]``.
"""

import contextlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.plan import EdgePlan

Gradients = tuple[Tensor | None, ...]


def wanted(ctx: Any, count: int) -> list[bool]:
    r"""Which of the first ``count`` inputs, all tensors, this backward pass needs gradients of.

    ``ctx.needs_input_grad`` only knows who requires gradients. Forces are derivatives by
    positions: there the engine would throw away those by the table and the features.
    """
    needs = list(ctx.needs_input_grad[:count])
    edges = iter(ctx.next_functions)
    for i in range(count):
        node, _ = next(edges, (None, 0))
        if needs[i] and node is not None:
            # It raises for leaves of torch.autograd.grad: those are wanted.
            with contextlib.suppress(RuntimeError):
                needs[i] = torch._C._will_engine_execute_node(node)
    return needs


class Reduce(torch.autograd.Function):
    """R_k, or its transpose; ``weight`` may be ``None``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        weight: Tensor | None,
        plan: EdgePlan,
        kernels: ModuleType,
        order: int,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, distances, table, weight)
        ctx.options = plan, kernels, order, transposed
        return kernels.reduce(x, distances, table, plan, order, weight, transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, distances, table, weight = ctx.saved_tensors
        plan, kernels, order, transposed = ctx.options
        for_x, for_distances, for_table, for_weight = wanted(
            ctx, 4 if weight is not None else 3
        ) + ([] if weight is not None else [False])
        if for_x and for_distances and order == 0 and weight is None and not transposed:
            dx, dd = ReduceBackward.apply(grad, x, distances, table, plan, kernels)
            for_x = for_distances = False
        else:
            dx = dd = None
        if for_x:
            dx = Reduce.apply(grad, distances, table, weight, plan, kernels, order, not transposed)
        # From here on by role: features at destinations and at sources.
        g, x = (x, grad) if transposed else (grad, x)
        if for_distances:
            dd = Product.apply(g, x, distances, table, plan, kernels, order + 1)
            dd = dd if weight is None else dd * weight
        dt = dw = None
        if for_table:
            dt = Collect.apply(g, x, distances, weight, table.size(0), plan, kernels, order)
        if for_weight:
            dw = Product.apply(g, x, distances, table, plan, kernels, order)
        return dx, dd, dt, dw, None, None, None, None


class Product(torch.autograd.Function):
    """P_k."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        plan: EdgePlan,
        kernels: ModuleType,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(g, x, distances, table)
        ctx.options = plan, kernels, order
        return kernels.product(g, x, distances, table, plan, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        g, x, distances, table = ctx.saved_tensors
        plan, kernels, order = ctx.options
        dg = dx = dd = dt = None
        for_g, for_x, for_distances, for_table = wanted(ctx, 4)
        if for_g:
            dg = Reduce.apply(x, distances, table, grad, plan, kernels, order, False)
        if for_x:
            dx = Reduce.apply(g, distances, table, grad, plan, kernels, order, True)
        if for_distances:
            dd = grad * Product.apply(g, x, distances, table, plan, kernels, order + 1)
        if for_table:
            dt = Collect.apply(g, x, distances, grad, table.size(0), plan, kernels, order)
        return dg, dx, dd, dt, None, None, None


class Collect(torch.autograd.Function):
    """C_k; ``weight`` may be ``None``."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        weight: Tensor | None,
        rows: int,
        plan: EdgePlan,
        kernels: ModuleType,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(g, x, distances, weight)
        ctx.options = plan, kernels, order
        return kernels.collect(g, x, distances, rows, plan, order, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        g, x, distances, weight = ctx.saved_tensors
        plan, kernels, order = ctx.options
        dg = dx = dd = dw = None
        for_g, for_x, for_distances, for_weight = wanted(ctx, 4 if weight is not None else 3) + (
            [] if weight is not None else [False]
        )
        if for_g:
            dg = Reduce.apply(x, distances, grad, weight, plan, kernels, order, False)
        if for_x:
            dx = Reduce.apply(g, distances, grad, weight, plan, kernels, order, True)
        if for_distances:
            dd = Product.apply(g, x, distances, grad, plan, kernels, order + 1)
            dd = dd if weight is None else dd * weight
        if for_weight:
            dw = Product.apply(g, x, distances, grad, plan, kernels, order)
        return dg, dx, dd, dw, None, None, None, None


class ReduceBackward(torch.autograd.Function):
    r"""Gradients of R_0 by x and d in one sweep: what forces need.

    :math:`\bar x = R_0^\top(g)` and :math:`\bar d = P_1(g, x)`, whose own derivatives serve force
    training.
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        plan: EdgePlan,
        kernels: ModuleType,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(g, x, distances, table)
        ctx.options = plan, kernels
        ctx.set_materialize_grads(False)
        return kernels.reduce_backward(g, x, distances, table, plan)

    @staticmethod
    def backward(ctx: Any, y: Tensor | None, s: Tensor | None) -> Gradients:
        g, x, distances, table = ctx.saved_tensors
        plan, kernels = ctx.options
        for_g, for_x, for_distances, for_table = wanted(ctx, 4)
        dg = dx = dd = dt = None
        if y is None and s is None:
            return None, None, None, None, None, None
        if torch.is_grad_enabled() or y is None or s is None:
            return _differentiable(ctx, y, s)
        if for_g or for_x or for_distances:
            dg, dx, dd = kernels.reduce_double_backward(
                g, x, y, s, distances, table, plan, for_distances
            )
        if for_table:
            dt = kernels.collect_backward(g, x, y, s, distances, table.size(0), plan)
        return dg, dx, dd, dt, None, None


def _differentiable(ctx: Any, y: Tensor | None, s: Tensor | None) -> Gradients:
    """The double backward of R_0 in terms of primitives, so that it has derivatives itself."""
    g, x, distances, table = ctx.saved_tensors
    plan, kernels = ctx.options
    for_g, for_x, for_distances, for_table = wanted(ctx, 4)
    grads: list[Tensor | None] = [None, None, None, None]

    def add(i: int, term: Tensor) -> None:
        held = grads[i]
        grads[i] = term if held is None else held + term

    if y is not None:
        if for_g:
            add(0, Reduce.apply(y, distances, table, None, plan, kernels, 0, False))
        if for_distances:
            add(2, Product.apply(g, y, distances, table, plan, kernels, 1))
        if for_table:
            add(3, Collect.apply(g, y, distances, None, table.size(0), plan, kernels, 0))
    if s is not None:
        if for_g:
            add(0, Reduce.apply(x, distances, table, s, plan, kernels, 1, False))
        if for_x:
            add(1, Reduce.apply(g, distances, table, s, plan, kernels, 1, True))
        if for_distances:
            add(2, s * Product.apply(g, x, distances, table, plan, kernels, 2))
        if for_table:
            add(3, Collect.apply(g, x, distances, s, table.size(0), plan, kernels, 1))
    return (*grads, None, None)
