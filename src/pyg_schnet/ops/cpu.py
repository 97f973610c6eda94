r"""The primitives on the CPU: same names, arguments and results as in the reference.

Tensors are float32 or float64; all values per edge are in the order of the plan. No gradients are
recorded.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import cpu_collect, cpu_kernels, cpu_softplus, reference
from .cpu_launch import Call, scratch
from .plan import NUM_BLOCKS, EdgePlan
from .table import MAX_ORDER

# Runs of edges that collect sums up separately. A constant: see NUM_BLOCKS.
_RUNS = 32
_ROWS_PER_TASK = 32


def reduce(
    x: Tensor,
    distances: Tensor,
    table: Tensor,
    plan: EdgePlan,
    order: int = 0,
    weight: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.reduce`."""
    rows = plan.num_src if transposed else plan.num_dst
    out = table.new_empty(rows, table.size(1))
    if order > MAX_ORDER or plan.num_edges == 0:
        return out.zero_()
    x = _dense(x, table, plan.num_dst if transposed else plan.num_src)
    distances, table = _per_edge(distances, table, plan), table.contiguous()
    call = _call(table, plan)
    if _sweeps(plan) and weight is None:
        call.run(
            cpu_kernels.sweep,
            NUM_BLOCKS,
            (order,),
            rowptr=plan.rowptr,
            source=plan.source,
            blocks=plan.blocks,
            distances=distances,
            table=table,
            x=x,
            out_x=out,
        )
        return out
    rowptr, source, edges = plan.rowptr, plan.source, None
    if transposed:
        rowptr, source, edges = plan.transposed()
    call.run(
        cpu_kernels.reduce,
        NUM_BLOCKS,
        (order,),
        count=rows,
        rowptr=rowptr,
        source=source,
        edges=edges,
        distances=distances,
        table=table,
        weight=None if weight is None else _per_edge(weight, table, plan),
        x=x,
        out_x=out,
    )
    return out


def product(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan, order: int = 0
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.product`."""
    out = table.new_empty(plan.num_edges)
    if order > MAX_ORDER or plan.num_edges == 0:
        return out.zero_()
    table = table.contiguous()
    _call(table, plan).run(
        cpu_kernels.product,
        NUM_BLOCKS,
        (order,),
        count=plan.num_dst,
        rowptr=plan.rowptr,
        source=plan.source,
        distances=_per_edge(distances, table, plan),
        table=table,
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        out_d=out,
    )
    return out


def collect(
    g: Tensor,
    x: Tensor,
    distances: Tensor,
    rows: int,
    plan: EdgePlan,
    order: int = 0,
    weight: Tensor | None = None,
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.collect`."""
    if order > MAX_ORDER or plan.num_edges == 0:
        return g.new_zeros(rows, g.size(1))
    return _collect(
        cpu_collect.collect,
        (order,),
        rows,
        plan,
        distances=_per_edge(distances, g, plan),
        weight=None if weight is None else _per_edge(weight, g, plan),
        g=_dense(g, g, plan.num_dst),
        x=_dense(x, g, plan.num_src),
    )


def reduce_backward(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan
) -> tuple[Tensor, Tensor]:
    """See :func:`pyg_schnet.ops.reference.reduce_backward`."""
    if not _sweeps(plan) or plan.num_edges == 0:
        return (
            reduce(g, distances, table, plan, transposed=True),
            product(g, x, distances, table, plan, 1),
        )
    table = table.contiguous()
    dx, dd = table.new_empty(plan.num_src, table.size(1)), table.new_empty(plan.num_edges)
    _call(table, plan).run(
        cpu_kernels.sweep_backward,
        NUM_BLOCKS,
        (0, 1),
        rowptr=plan.rowptr,
        source=plan.source,
        blocks=plan.blocks,
        reverse=plan.reverse,
        distances=_per_edge(distances, table, plan),
        table=table,
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        out_x=dx,
        out_d=dd,
    )
    return dx, dd


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
    """See :func:`pyg_schnet.ops.reference.reduce_double_backward`."""
    dd = None
    if not _sweeps(plan) or plan.num_edges == 0:
        dg = reduce(y, distances, table, plan)
        dg += reduce(x, distances, table, plan, 1, s)
        dx = reduce(g, distances, table, plan, 1, s, transposed=True)
        if for_distances:
            dd = product(g, x, distances, table, plan, 2).mul_(s)
            dd += product(g, y, distances, table, plan, 1)
        return dg, dx, dd
    table = table.contiguous()
    dg, dx = (table.new_empty(plan.num_dst, table.size(1)) for _ in range(2))
    if for_distances:
        dd = table.new_empty(plan.num_edges)
    _call(table, plan).run(
        cpu_kernels.sweep_double_backward,
        NUM_BLOCKS,
        (0, 1, 2),
        rowptr=plan.rowptr,
        source=plan.source,
        blocks=plan.blocks,
        reverse=plan.reverse,
        distances=_per_edge(distances, table, plan),
        table=table,
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        y=_dense(y, table, plan.num_src),
        s=_per_edge(s, table, plan),
        out_g=dg,
        out_x=dx,
        out_d=dd,
    )
    return dg, dx, dd


def collect_backward(
    g: Tensor, x: Tensor, y: Tensor, s: Tensor, distances: Tensor, rows: int, plan: EdgePlan
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.collect_backward`."""
    if not _sweeps(plan) or plan.num_edges == 0:
        out = collect(g, y, distances, rows, plan)
        out += collect(g, x, distances, rows, plan, 1, s)
        return out
    return _collect(
        cpu_collect.collect_backward,
        (0, 1),
        rows,
        plan,
        distances=_per_edge(distances, g, plan),
        g=_dense(g, g, plan.num_dst),
        x=_dense(x, g, plan.num_src),
        y=_dense(y, g, plan.num_src),
        s=_per_edge(s, g, plan),
    )


def _dense(features: Tensor, like: Tensor, rows: int) -> Tensor:
    """Features as kernels read them, which cannot notice when they leave an array."""
    if features.shape != (rows, like.size(1)) or features.dtype != like.dtype:
        raise ValueError(
            f"features must have shape [{rows}, {like.size(1)}] and dtype {like.dtype} "
            f"(got {list(features.shape)}, {features.dtype})"
        )
    return features.contiguous()


def _per_edge(values: Tensor, like: Tensor, plan: EdgePlan) -> Tensor:
    """Values per edge as kernels read them."""
    if values.shape != plan.source.shape or values.dtype != like.dtype:
        raise ValueError(
            f"values per edge must have shape [{plan.num_edges}] and dtype {like.dtype} "
            f"(got {list(values.shape)}, {values.dtype})"
        )
    return values.contiguous()


def softplus_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.softplus_and_slope`."""
    if x.dtype != torch.float32 or x.numel() == 0:
        return reference.softplus_and_slope(x)
    value, slope = cpu_softplus.shifted_softplus(x, True)
    assert slope is not None
    return value, slope


def _sweeps(plan: EdgePlan) -> bool:
    """Whether pairs of atoms can be visited once; plans made on other devices lack blocks."""
    return plan.symmetric and plan.blocks is not None


def _call(like: Tensor, plan: EdgePlan) -> Call:
    width, knots = like.size(1), plan.require_knots()
    if like.size(0) != knots.rows or not like.is_cpu or not plan.source.is_cpu:
        raise ValueError(
            f"the table must have {knots.rows} rows for the knots of the plan (got "
            f"{like.size(0)}), and both must be on the CPU"
        )
    return Call(width, knots, like.dtype, plan.num_edges * width)


def _collect(
    function: Callable, orders: tuple[int, ...], rows: int, plan: EdgePlan, **arrays: Tensor | None
) -> Tensor:
    g, distances = arrays["g"], arrays["distances"]
    assert g is not None
    assert distances is not None
    width = g.size(1)
    out = g.new_empty(rows, width)
    partial = scratch("rows", (rows + 4 * _RUNS) * width, g.dtype)
    ranges = scratch("ranges", 2 * _RUNS, torch.int32)
    call = _call(out, plan)
    for attempt in range(2):
        # The plan sorts its first distances; others come out right as well, if sorted themselves.
        order = plan.by_knot(distances, again=attempt > 0)
        in_order = call.run(
            function,
            _RUNS,
            orders,
            count=order.numel(),
            source=plan.source,
            target=plan.target,
            edges=order,
            reverse=plan.reverse,
            scratch=partial,
            ranges=ranges,
            **arrays,
        ) and call.run(
            cpu_collect.merge,
            -(-rows // _ROWS_PER_TASK),
            count=_RUNS,
            scratch=partial,
            ranges=ranges,
            out_x=out,
        )
        if in_order:
            return out
    raise RuntimeError("edges sorted by knot are out of order: this is a bug, please report it")
