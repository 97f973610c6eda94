r"""Derivatives of the primitives in terms of the primitives.

With a cotangent of each output,

.. math::
    R_k(x, d, T, c):\quad & \bar x = R_k^\top(\bar R, c), \quad \bar d = c\, P_{k+1}(\bar R, x),
        \quad \bar T = C_k(\bar R, x, c), \quad \bar c = P_k(\bar R, x) \\
    P_k(g, x, d, T):\quad & \bar g = R_k(x, \bar P), \quad \bar x = R_k^\top(g, \bar P), \quad
        \bar d = \bar P\, P_{k+1}(g, x), \quad \bar T = C_k(g, x, \bar P) \\
    C_k(g, x, d, c):\quad & \bar g = R_k(x, \bar C, c), \quad \bar x = R_k^\top(g, \bar C, c), \quad
        \bar d = c\, P_{k+1}(g, x, \bar C), \quad \bar c = P_k(g, x, \bar C)

where :math:`R^\top` walks the edges from destination to source, and :math:`\bar C` serves as a
table. All orders of derivative follow, and none needs a tensor of shape ``[E, F]``. The same rules
serve eager mode and compiled graphs, which call the primitives in different ways.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

Gradients = tuple[Tensor | None, ...]


class Primitives(Protocol):
    """The primitives on one plan, recorded by autograd."""

    def reduce(
        self,
        x: Tensor,
        distances: Tensor,
        table: Tensor,
        weight: Tensor | None,
        order: int,
        transposed: bool,
    ) -> Tensor:
        """R_k."""

    def product(self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor, order: int) -> Tensor:
        """P_k."""

    def collect(
        self,
        g: Tensor,
        x: Tensor,
        distances: Tensor,
        weight: Tensor | None,
        rows: int,
        order: int,
    ) -> Tensor:
        """C_k."""

    def reduce_backward(
        self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The transpose of R_0, and P_1."""


def reduce_gradients(
    ops: Primitives,
    wants: Sequence[bool],
    grad: Tensor,
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    weight: Tensor | None,
    order: int,
    transposed: bool,
) -> Gradients:
    """Gradients of R_k by x, distances, table and weight, as far as wanted."""
    for_x, for_distances, for_table, for_weight = wants
    dx = dd = dt = dw = None
    if for_x and for_distances and order == 0 and weight is None and not transposed:
        dx, dd = ops.reduce_backward(grad, x, distances, table)
        for_x = for_distances = False
    if for_x:
        dx = ops.reduce(grad, distances, table, weight, order, not transposed)
    # From here on by role: features at destinations and at sources.
    g, x = (x, grad) if transposed else (grad, x)
    if for_distances:
        dd = ops.product(g, x, distances, table, order + 1)
        dd = dd if weight is None else dd * weight
    if for_table:
        dt = ops.collect(g, x, distances, weight, table.size(0), order)
    if for_weight:
        dw = ops.product(g, x, distances, table, order)
    return dx, dd, dt, dw


def product_gradients(
    ops: Primitives,
    wants: Sequence[bool],
    grad: Tensor,
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    order: int,
) -> Gradients:
    """Gradients of P_k by g, x, distances and table, as far as wanted."""
    for_g, for_x, for_distances, for_table = wants
    dg = dx = dd = dt = None
    if for_g:
        dg = ops.reduce(x, distances, table, grad, order, False)
    if for_x:
        dx = ops.reduce(g, distances, table, grad, order, True)
    if for_distances:
        dd = grad * ops.product(g, x, distances, table, order + 1)
    if for_table:
        dt = ops.collect(g, x, distances, grad, table.size(0), order)
    return dg, dx, dd, dt


def collect_gradients(
    ops: Primitives,
    wants: Sequence[bool],
    grad: Tensor,
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    weight: Tensor | None,
    order: int,
) -> Gradients:
    """Gradients of C_k by g, x, distances and weight, as far as wanted."""
    for_g, for_x, for_distances, for_weight = wants
    dg = dx = dd = dw = None
    if for_g:
        dg = ops.reduce(x, distances, grad, weight, order, False)
    if for_x:
        dx = ops.reduce(g, distances, grad, weight, order, True)
    if for_distances:
        dd = ops.product(g, x, distances, grad, order + 1)
        dd = dd if weight is None else dd * weight
    if for_weight:
        dw = ops.product(g, x, distances, grad, order)
    return dg, dx, dd, dw


def reduce_backward_gradients(
    ops: Primitives,
    wants: Sequence[bool],
    y: Tensor | None,
    s: Tensor | None,
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    table: Tensor,
) -> Gradients:
    """Gradients of the transpose of R_0 and of P_1 by g, x, distances and table."""
    grads: list[Tensor | None] = [None, None, None, None]
    if y is not None:
        for_g, _, for_distances, for_table = wants
        if for_g:
            grads[0] = ops.reduce(y, distances, table, None, 0, False)
        if for_distances:
            grads[2] = ops.product(g, y, distances, table, 1)
        if for_table:
            grads[3] = ops.collect(g, y, distances, None, table.size(0), 0)
    if s is not None:
        terms = product_gradients(ops, wants, s, g, x, distances, table, 1)
        grads = [a if b is None else b if a is None else a + b for a, b in zip(grads, terms)]
    return tuple(grads)
