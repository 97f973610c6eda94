r"""The primitives as ``torch.library`` operators, for :func:`torch.compile` and ``torch.export``.

A graph holds tensors and numbers only, so a plan travels as one tensor of integers, packed by
:func:`pack`. Whether a graph of atoms is symmetric shows at run time.
"""

from typing import Any

import torch
from torch import Tensor

from . import rules
from .dispatch import kernels_for
from .plan import NUM_BLOCKS, EdgePlan
from .rules import Gradients
from .table import Knots


def pack(plan: EdgePlan) -> Tensor:
    """All integers of a plan in one int32 tensor."""
    assert plan.rowptr is not None
    blocks = plan.blocks if plan.symmetric else None
    flag = plan.rowptr.new_full((1,), int(blocks is not None))
    if blocks is None:
        blocks = plan.rowptr.new_zeros(NUM_BLOCKS + 1)
    return torch.cat([flag, blocks, plan.rowptr, plan.source, plan.target, *plan.transposed()])


def _unpack(packed: Tensor, num_src: int, num_dst: int, knots: tuple) -> EdgePlan:
    num_edges = (packed.numel() - NUM_BLOCKS - num_src - num_dst - 4) // 4
    flag, blocks, rowptr, source, target, rowptr_t, target_t, edges_t = packed.split(
        [1, NUM_BLOCKS + 1, num_dst + 1, num_edges, num_edges, num_src + 1, num_edges, num_edges]
    )
    # On a GPU the host would have to wait for the flag, which is not set there: see blocks.
    symmetric = packed.is_cpu and bool(flag)
    return EdgePlan(
        source,
        target,
        num_src,
        num_dst,
        rowptr=rowptr,
        reverse=edges_t if symmetric else None,
        blocks=blocks if symmetric else None,
        knots=Knots(*knots),
        _transposed=(rowptr_t, target_t, edges_t),
    )


@torch.library.custom_op("pyg_schnet::edge_plan", mutates_args=())
def edge_plan(
    edge_index: Tensor,
    distances: Tensor,
    num_src: int,
    num_dst: int,
    shortest: float,
    longest: float,
) -> tuple[Tensor, Tensor]:
    """Packed plan and permutation; distances must lie in the given range."""
    if distances.numel() > 0:
        low, high = (float(bound) for bound in distances.aminmax())
        if low < shortest or high > longest:
            raise ValueError(
                f"distances from {low:.6g} to {high:.6g} exceed the range of the filter, "
                f"{shortest:.6g} to {longest:.6g}"
            )
    plan = EdgePlan.build(edge_index, (num_src, num_dst), distances)
    permutation = plan.permutation
    if permutation is None:
        permutation = torch.arange(plan.num_edges, device=edge_index.device)
    return pack(plan), permutation


@edge_plan.register_fake
def _(
    edge_index: Tensor,
    distances: Tensor,
    num_src: int,
    num_dst: int,
    shortest: float,
    longest: float,
) -> tuple[Tensor, Tensor]:
    num_edges = edge_index.size(1)
    # The flag, and one entry more than blocks, destinations and sources.
    size = NUM_BLOCKS + num_src + num_dst + 4 + 4 * num_edges
    return edge_index.new_empty(size, dtype=torch.int32), edge_index.new_empty(
        num_edges, dtype=torch.int64
    )


@torch.library.custom_op("pyg_schnet::reduce", mutates_args=())
def reduce(
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    weight: Tensor | None,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
    order: int,
    transposed: bool,
) -> Tensor:
    """R_k, see :func:`pyg_schnet.ops.reference.reduce`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).reduce(x, distances, table, edges, order, weight, transposed)


@torch.library.custom_op("pyg_schnet::product", mutates_args=())
def product(
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
    order: int,
) -> Tensor:
    """P_k, see :func:`pyg_schnet.ops.reference.product`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).product(g, x, distances, table, edges, order)


@torch.library.custom_op("pyg_schnet::collect", mutates_args=())
def collect(
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    weight: Tensor | None,
    rows: int,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
    order: int,
) -> Tensor:
    """C_k, see :func:`pyg_schnet.ops.reference.collect`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).collect(g, x, distances, rows, edges, order, weight)


@torch.library.custom_op("pyg_schnet::reduce_backward", mutates_args=())
def reduce_backward(
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`pyg_schnet.ops.reference.reduce_backward`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).reduce_backward(g, x, distances, table, edges)


@torch.library.custom_op("pyg_schnet::reduce_double_backward", mutates_args=())
def reduce_double_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    s: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`pyg_schnet.ops.reference.reduce_double_backward`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).reduce_double_backward(g, x, y, s, distances, table, edges)


@torch.library.custom_op("pyg_schnet::collect_backward", mutates_args=())
def collect_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    s: Tensor,
    distances: Tensor,
    rows: int,
    plan: Tensor,
    num_src: int,
    num_dst: int,
    start: float,
    spacing: float,
    intervals: int,
    vanishes: bool,
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.collect_backward`."""
    edges = _unpack(plan, num_src, num_dst, (start, spacing, intervals, vanishes))
    return kernels_for(x).collect_backward(g, x, y, s, distances, rows, edges)


@reduce.register_fake
def _(x, distances, table, weight, plan, num_src, num_dst, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(num_src if rest[-1] else num_dst, table.size(1))


@product.register_fake
def _(g, x, distances, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(distances)


@collect.register_fake
def _(g, x, distances, weight, rows, *rest):  # type: ignore[no-untyped-def]
    return g.new_empty(rows, g.size(1))


@reduce_backward.register_fake
def _(g, x, distances, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), distances.new_empty(distances.shape)


@reduce_double_backward.register_fake
def _(g, x, y, s, distances, *rest):  # type: ignore[no-untyped-def]
    return g.new_empty(g.shape), x.new_empty(x.shape), distances.new_empty(distances.shape)


@collect_backward.register_fake
def _(g, x, y, s, distances, rows, *rest):  # type: ignore[no-untyped-def]
    return g.new_empty(rows, g.size(1))


class Compiled:
    r"""The primitives on a packed plan, as operators of a graph.

    Args:
        edges: The arguments from the packed plan on that all operators end with: plan, num_src,
            num_dst, start, spacing, intervals, vanishes.
    """

    def __init__(self, *edges: Any):
        self.edges = edges

    @classmethod
    def of(cls, plan: EdgePlan) -> "Compiled":
        """The primitives on the edges of a plan."""
        knots = plan.require_knots()
        return cls(
            plan.packed if plan.packed is not None else pack(plan),
            plan.num_src,
            plan.num_dst,
            knots.start,
            knots.spacing,
            knots.intervals,
            knots.vanishes,
        )

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
        return reduce(x, distances, table, weight, *self.edges, order, transposed)

    def product(self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor, order: int) -> Tensor:
        """P_k."""
        return product(g, x, distances, table, *self.edges, order)

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
        return collect(g, x, distances, weight, rows, *self.edges, order)

    def reduce_backward(
        self, g: Tensor, x: Tensor, distances: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The transpose of R_0, and P_1."""
        return reduce_backward(g, x, distances, table, *self.edges)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object, begin: int) -> None:
    """Saves the tensors before argument ``begin``, and the packed plan with all after it."""
    plan, *ctx.options = inputs[begin:]
    ctx.save_for_backward(*inputs[:4], plan)
    ctx.count = len(inputs)


def _edges(ctx: Any) -> tuple[Compiled, tuple[Any, ...]]:
    """The primitives on the saved plan, and the options after it."""
    return Compiled(ctx.saved_tensors[4], *ctx.options[:6]), tuple(ctx.options[6:])


def _reduce_setup(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _keep(ctx, inputs, output, 4)


def _reduce_gradients(ctx: Any, grad: Tensor) -> Gradients:
    ops, options = _edges(ctx)
    wants = ctx.needs_input_grad[:4]
    grads = rules.reduce_gradients(ops, wants, grad, *ctx.saved_tensors[:4], *options)
    return (*grads, *[None] * (ctx.count - 4))


def _product_gradients(ctx: Any, grad: Tensor) -> Gradients:
    ops, options = _edges(ctx)
    wants = ctx.needs_input_grad[:4]
    grads = rules.product_gradients(ops, wants, grad, *ctx.saved_tensors[:4], *options)
    return (*grads, *[None] * (ctx.count - 4))


def _collect_setup(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _keep(ctx, inputs, output, 5)


def _collect_gradients(ctx: Any, grad: Tensor) -> Gradients:
    ops, options = _edges(ctx)
    wants = ctx.needs_input_grad[:4]
    grads = rules.collect_gradients(ops, wants, grad, *ctx.saved_tensors[:4], *options)
    return (*grads, *[None] * (ctx.count - 4))


def _reduce_backward_gradients(ctx: Any, y: Tensor | None, s: Tensor | None) -> Gradients:
    ops, _ = _edges(ctx)
    wants = ctx.needs_input_grad[:4]
    g, x, distances, table = ctx.saved_tensors[:4]
    if y is None or s is None:
        grads = rules.reduce_backward_gradients(ops, wants, y, s, g, x, distances, table)
        return (*grads, *[None] * (ctx.count - 4))
    dg, dx, dd = reduce_double_backward(g, x, y, s, distances, table, *ops.edges)
    dt = None
    if wants[3]:
        dt = collect_backward(g, x, y, s, distances, table.size(0), *ops.edges)
    return (dg, dx, dd, dt, *[None] * (ctx.count - 4))


reduce.register_autograd(_reduce_gradients, setup_context=_reduce_setup)
product.register_autograd(_product_gradients, setup_context=_reduce_setup)
collect.register_autograd(_collect_gradients, setup_context=_collect_setup)
reduce_backward.register_autograd(_reduce_backward_gradients, setup_context=_reduce_setup)
for _operator in (
    reduce,
    product,
    collect,
    reduce_backward,
    reduce_double_backward,
    collect_backward,
):
    for _device in ("cpu", "cuda"):
        _operator.register_autocast(_device, torch.float32)
