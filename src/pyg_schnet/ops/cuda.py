r"""The primitives in Triton: same names, arguments and results as in the reference.

Tensors are float32 or float64, on a GPU, or on the CPU in Triton's interpreter; all values per edge
are in the order of the plan. No gradients are recorded. The host waits for the device nowhere, so
that calls can be captured as a CUDA graph.
"""

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

from . import cuda_collect, cuda_kernels
from .plan import EdgePlan
from .reference import softplus_and_slope
from .table import MAX_ORDER

__all__ = [
    "collect",
    "collect_backward",
    "interpreted",
    "product",
    "reduce",
    "reduce_backward",
    "reduce_double_backward",
    "softplus_and_slope",  # atoms are few beside edges: plain PyTorch
]

# Bytes of a tile per warp. Sixteen registers for each thread: five to seven tiles are loaded at
# once beside one to four that hold sums, of 255 registers, and 128 would fit 16 warps.
_TILE = 2048
# Features beyond these are other programs' work: a warp loads 16 bytes per thread, 512 in a row.
_MAX_BLOCK = 128


def interpreted() -> bool:
    """Whether the kernels run on CPU tensors, in Triton's interpreter."""
    return not isinstance(cuda_kernels.reduce, triton.JITFunction)


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
    distances = _per_edge(distances, table, plan)
    rowptr, source, edges = plan.rowptr, plan.source, None
    if transposed:
        rowptr, source, edges = plan.transposed()
    _launch(
        cuda_kernels.reduce,
        rows,
        plan,
        table,
        rowptr=rowptr,
        source=source,
        edges=source if edges is None else edges,
        distances=distances,
        table=_table(table, plan),
        weight=distances if weight is None else _per_edge(weight, table, plan),
        x=_dense(x, table, plan.num_dst if transposed else plan.num_src),
        out=out,
        ORDER=order,
        WEIGHTED=weight is not None,
        INDIRECT=edges is not None,
    )
    return out


def product(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan, order: int = 0
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.product`."""
    if order > MAX_ORDER or plan.num_edges == 0:
        return table.new_zeros(plan.num_edges)
    out = _blocks_of_edges(table, plan)
    # Four warps, which share nothing: a quarter of the programs to start.
    size = 4 * _block_edges(table)
    _launch(
        cuda_kernels.product,
        -(-plan.num_edges // size),
        plan,
        table,
        source=plan.source,
        target=plan.target,
        distances=_per_edge(distances, table, plan),
        table=_table(table, plan),
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        out=out,
        num_edges=plan.num_edges,
        ORDER=order,
        BLOCK_E=size,
        num_warps=4,
    )
    return _sum_of_blocks(out)


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
    return _collect(g, x, x, distances, weight, rows, plan, ORDER=order, BACKWARD=False)


def reduce_backward(
    g: Tensor, x: Tensor, distances: Tensor, table: Tensor, plan: EdgePlan
) -> tuple[Tensor, Tensor]:
    """See :func:`pyg_schnet.ops.reference.reduce_backward`."""
    if not plan.symmetric or plan.num_edges == 0:
        return (
            reduce(g, distances, table, plan, transposed=True),
            product(g, x, distances, table, plan, 1),
        )
    dx, dd = table.new_empty(plan.num_src, table.size(1)), _blocks_of_edges(table, plan)
    _launch(
        cuda_kernels.reduce_backward,
        plan.num_dst,
        plan,
        table,
        rowptr=plan.rowptr,
        source=plan.source,
        distances=_per_edge(distances, table, plan),
        table=_table(table, plan),
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        out_x=dx,
        out_d=dd,
        num_edges=plan.num_edges,
    )
    return dx, _sum_of_blocks(dd)


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
    if not plan.symmetric or plan.num_edges == 0:
        dg = reduce(y, distances, table, plan)
        dg += reduce(x, distances, table, plan, 1, s)
        dx = reduce(g, distances, table, plan, 1, s, transposed=True)
        if for_distances:
            dd = product(g, x, distances, table, plan, 2).mul_(s)
            dd += product(g, y, distances, table, plan, 1)
        return dg, dx, dd
    dg, dx = (table.new_empty(plan.num_dst, table.size(1)) for _ in range(2))
    if for_distances:
        dd = _blocks_of_edges(table, plan)
    _launch(
        cuda_kernels.reduce_double_backward,
        plan.num_dst,
        plan,
        table,
        rowptr=plan.rowptr,
        source=plan.source,
        reverse=plan.reverse,
        distances=_per_edge(distances, table, plan),
        table=_table(table, plan),
        g=_dense(g, table, plan.num_dst),
        x=_dense(x, table, plan.num_src),
        y=_dense(y, table, plan.num_src),
        s=_per_edge(s, table, plan),
        out_g=dg,
        out_x=dx,
        out_d=dx if dd is None else dd,
        num_edges=plan.num_edges,
        FOR_DISTANCES=for_distances,
    )
    return dg, dx, None if dd is None else _sum_of_blocks(dd)


def collect_backward(
    g: Tensor, x: Tensor, y: Tensor, s: Tensor, distances: Tensor, rows: int, plan: EdgePlan
) -> Tensor:
    """See :func:`pyg_schnet.ops.reference.collect_backward`."""
    if plan.num_edges == 0:
        return g.new_zeros(rows, g.size(1))
    return _collect(g, x, y, distances, s, rows, plan, ORDER=0, BACKWARD=True)


def _collect(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    distances: Tensor,
    weight: Tensor | None,
    rows: int,
    plan: EdgePlan,
    **variant: Any,
) -> Tensor:
    out = g.new_empty(rows, g.size(1))
    _table(out, plan)
    distances = _per_edge(distances, g, plan)
    chunks = plan.chunks_by_knot(distances)
    partial = g.new_empty(chunks.interval.numel(), 4, g.size(1))
    moved = torch.zeros(1, dtype=torch.int32, device=g.device)
    shared: dict[str, Any] = {
        "source": plan.source,
        "target": plan.target,
        "distances": distances,
        "weight": distances if weight is None else _per_edge(weight, g, plan),
        "g": _dense(g, g, plan.num_dst),
        "x": _dense(x, g, plan.num_src),
        "y": _dense(y, g, plan.num_src),
        "partial": partial,
        "moved": moved,
        "WEIGHTED": weight is not None,
        **variant,
    }
    _launch(
        cuda_collect.collect,
        partial.size(0),
        plan,
        out,
        order=chunks.order,
        chunk_interval=chunks.interval,
        chunk_begin=chunks.begin,
        chunk_end=chunks.end,
        **shared,
    )
    _launch(
        cuda_collect.merge,
        rows,
        plan,
        out,
        interval_chunks=chunks.first,
        out=out,
        num_edges=plan.num_edges,
        **shared,
    )
    return out


def _launch(kernel: Any, programs: int, plan: EdgePlan, like: Tensor, **arguments: Any) -> None:
    """Runs a kernel on ``programs`` for each block of features."""
    knots, width = plan.require_knots(), like.size(1)
    # A warp by itself needs no barriers, and sums over edges without shared memory. Contraction of
    # products and sums is what Triton does by default, until 3.10.
    options = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
    blocks = {"BLOCK_E": _block_edges(like), "BLOCK_F": _block_features(width)}
    # Triton launches on the current device, whatever the tensors.
    with torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext():
        kernel[(programs, _num_blocks(width))](
            start=knots.start,
            per_spacing=1.0 / knots.spacing,
            limit=knots.limit,
            intervals=knots.intervals,
            WIDTH=width,
            **(options | blocks | arguments),
        )


def _block_features(width: int) -> int:
    return min(triton.next_power_of_2(width), _MAX_BLOCK)


def _num_blocks(width: int) -> int:
    return -(-width // _block_features(width))


def _block_edges(like: Tensor) -> int:
    return min(_TILE // (like.element_size() * _block_features(like.size(1))), 32)


def _blocks_of_edges(like: Tensor, plan: EdgePlan) -> Tensor:
    """For sums over each block of features, ``[blocks, E]``."""
    return like.new_empty(_num_blocks(like.size(1)), plan.num_edges)


def _sum_of_blocks(parts: Tensor) -> Tensor:
    return parts[0] if parts.size(0) == 1 else parts.sum(0)


def _table(table: Tensor, plan: EdgePlan) -> Tensor:
    """A table as kernels read it, which cannot notice when they leave an array."""
    rows = plan.require_knots().rows
    if table.size(0) != rows or table.device != plan.source.device:
        raise ValueError(
            f"the table must have {rows} rows for the knots of the plan and lie on its device, "
            f"{plan.source.device} (got {table.size(0)} rows on {table.device})"
        )
    return table.contiguous()


def _dense(features: Tensor, like: Tensor, rows: int) -> Tensor:
    """Features as kernels read them."""
    if (
        features.shape != (rows, like.size(1))
        or features.dtype != like.dtype
        or features.device != like.device
    ):
        raise ValueError(
            f"features must have shape [{rows}, {like.size(1)}] and be {like.dtype} on "
            f"{like.device} (got {list(features.shape)}, {features.dtype} on {features.device})"
        )
    return features.contiguous()


def _per_edge(values: Tensor, like: Tensor, plan: EdgePlan) -> Tensor:
    """Values per edge as kernels read them."""
    if (
        values.shape != plan.source.shape
        or values.dtype != like.dtype
        or values.device != like.device
    ):
        raise ValueError(
            f"values per edge must have shape [{plan.num_edges}] and be {like.dtype} on "
            f"{like.device} (got {list(values.shape)}, {values.dtype} on {values.device})"
        )
    return values.contiguous()
