"""The primitives as autograd Functions, for eager mode, where these cost least."""

import contextlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import reference, rules
from .dispatch import batched
from .plan import EdgePlan
from .rules import Gradients

# ruff: noqa: D102 - forward and backward are what autograd Functions consist of.


@dataclass
class Eager:
    """The primitives on the edges of a plan, by the kernels of a module."""

    plan: EdgePlan
    kernels: ModuleType

    def reduce(
        self,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        weight: Tensor | None,
        order: int,
        transposed: bool,
    ) -> Tensor:
        if batched(x, distances, weight):
            return reference.reduce(x, distances, table, self.plan, order, weight, transposed)
        return Reduce.apply(x, distances, table, weight, self, order, transposed)

    def product(self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor, order: int) -> Tensor:
        if batched(g, x, distances):
            return reference.product(g, x, distances, table, self.plan, order)
        return Product.apply(g, x, distances, table, self, order)

    def collect(
        self,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        weight: Tensor | None,
        rows: int,
        order: int,
    ) -> Tensor:
        if batched(g, x, distances, weight):
            return reference.collect(g, x, distances, rows, self.plan, order, weight)
        return Collect.apply(g, x, distances, weight, rows, self, order)

    def reduce_backward(
        self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        if batched(g, x, distances):
            return reference.reduce_backward(g, x, distances, table, self.plan)
        return ReduceBackward.apply(g, x, distances, table, self)


def wanted(ctx: Any) -> list[bool]:
    r"""Which of the first four inputs, tensors or ``None``, this backward pass asks gradients of.

    ``ctx.needs_input_grad`` only knows which require gradients. Forces are derivatives by
    positions: for them the engine would throw away the gradient by the table.
    """
    needs = list(ctx.needs_input_grad[:4])
    nodes = iter(ctx.next_functions)
    for i in range(4):
        # An input that is None has no node; it comes last, and needs none.
        node, _ = next(nodes, (None, 0))
        if needs[i] and node is not None:
            # It raises for leaves of torch.autograd.grad: those are wanted.
            with contextlib.suppress(RuntimeError):
                needs[i] = torch._C._will_engine_execute_node(node)
    return needs


class Reduce(torch.autograd.Function):
    """R_k, or its transpose."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        weight: Tensor | None,
        ops: Eager,
        order: int,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, distances, table, weight)
        ctx.options = ops, order, transposed
        return ops.kernels.reduce(x, distances, table, ops.plan, order, weight, transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, distances, table, weight = ctx.saved_tensors
        ops, order, transposed = ctx.options
        grads = rules.reduce_gradients(
            ops, wanted(ctx), grad, x, distances, table, weight, order, transposed
        )
        return (*grads, None, None, None)


class Product(torch.autograd.Function):
    """P_k."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        ops: Eager,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(g, x, distances, table)
        ctx.options = ops, order
        return ops.kernels.product(g, x, distances, table, ops.plan, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        g, x, distances, table = ctx.saved_tensors
        ops, order = ctx.options
        grads = rules.product_gradients(ops, wanted(ctx), grad, g, x, distances, table, order)
        return (*grads, None, None)


class Collect(torch.autograd.Function):
    """C_k."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        weight: Tensor | None,
        rows: int,
        ops: Eager,
        order: int,
    ) -> Tensor:
        ctx.save_for_backward(g, x, distances, weight)
        ctx.options = ops, order
        return ops.kernels.collect(g, x, distances, rows, ops.plan, order, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        g, x, distances, weight = ctx.saved_tensors
        ops, order = ctx.options
        grads = rules.collect_gradients(ops, wanted(ctx), grad, g, x, distances, weight, order)
        return (*grads, None, None, None)


class ReduceBackward(torch.autograd.Function):
    r"""Gradients of R_0 by x and d in one sweep, which forces need.

    Its own gradients serve force training: fused sweeps where they are final, primitives where
    they are to be differentiated again.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, distances: Tensor, table: Tensor, ops: Eager
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(g, x, distances, table)
        ctx.ops = ops
        ctx.set_materialize_grads(False)
        return ops.kernels.reduce_backward(g, x, distances, table, ops.plan)

    @staticmethod
    def backward(ctx: Any, y: Tensor | None, s: Tensor | None) -> Gradients:
        g, x, distances, table = ctx.saved_tensors
        wants, ops = wanted(ctx), ctx.ops
        if torch.is_grad_enabled() or y is None or s is None or batched(y, s):
            grads = rules.reduce_backward_gradients(ops, wants, y, s, g, x, distances, table)
            return (*grads, None)
        dg = dx = dd = dt = None
        if any(wants[:3]):
            dg, dx, dd = ops.kernels.reduce_double_backward(
                g, x, y, s, distances, table, ops.plan, wants[2]
            )
        if wants[3]:
            dt = ops.kernels.collect_backward(g, x, y, s, distances, table.size(0), ops.plan)
        return dg, dx, dd, dt, None
