r"""Triton kernels of the convolution, see :mod:`pyg_schnet.ops.reference`.

A program sees one block of features, ``BLOCK_F``, and ``BLOCK_E`` edges at a time: a tile. The
four rows of the table an edge lies between are interpolated in registers and used at once, by all
that a fused kernel computes. Per edge, in rows of F numbers and multiply-adds per feature, and what
the rows would be if the primitives ran one by one:

======================  =======================  ====  ===  ==========
kernel                  rows read                sum   FMA  one by one
======================  =======================  ====  ===  ==========
reduce                  4 of T; x_j              5     5
product                 4 of T; g_i, x_j         6     6
reduce_backward         4 of T; g_j, x_j         6     11   11
reduce_double_backward  4 of T; g_j, x_j, y_j    7     20   27
collect                 g_i, x_j                 2     5
collect, BACKWARD       g_i, x_j, y_j            3     11   4
======================  =======================  ====  ===  ==========

The table, a few hundred rows, stays in the caches; features of neighbours are coalesced over the
block. Of 128 float32 features reduce reads 2.5 KB from the caches per edge, 20 clocks of a
multiprocessor at 128 bytes each, and about as long are its 1,300 FLOP with the arithmetic of the
splines. Neither matters before latencies do: a tile is as large as registers allow, and all its
loads are in flight together.

Sums over the edges of an atom or of an interval have one order, and no atomics: results are
deterministic. Positions of edges and offsets into features are 64-bit.
"""

# Triton compiles these functions by types that mypy does not know.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def locate(distance, start: tl.float64, per_spacing: tl.float64, limit: tl.float64, intervals):
    """Interval, position within it, and whether the filter counts there, of each edge.

    As :func:`.table.locate`, with no interval but the first for NaN, which counts: it must show.
    """
    dtype = distance.dtype
    scaled = (distance - tl.full((), start, dtype)) * tl.full((), per_spacing, dtype)
    inside = (scaled >= 0) & (scaled < tl.full((), limit, dtype))
    interval = tl.where(inside, scaled, tl.zeros_like(scaled)).to(tl.int32)
    interval = tl.minimum(interval, intervals - 1)
    return interval, scaled - interval.to(dtype), inside | (scaled != scaled)


@triton.jit
def splines(u, counts, per_spacing: tl.float64, ORDER: tl.constexpr):
    """The splines of an interval, or derivatives, see :func:`.table.spline_basis`; else zero."""
    nothing = tl.zeros_like(u)
    if ORDER == 0:
        v = 1 - u
        b0 = v * v * v * (1.0 / 6.0)
        b1 = (4 - 3 * u * u * (1 + v)) * (1.0 / 6.0)
        b2 = (4 - 3 * v * v * (1 + u)) * (1.0 / 6.0)
        b3 = u * u * u * (1.0 / 6.0)
    elif ORDER == 1:
        b0 = (1 - u) * (u - 1) * 0.5
        b1 = (3 * u - 4) * u * 0.5
        b2 = (1 + 2 * u - 3 * u * u) * 0.5
        b3 = u * u * 0.5
    elif ORDER == 2:
        b0 = 1 - u
        b1 = 3 * u - 2
        b2 = 1 - 3 * u
        b3 = u
    else:
        b0 = nothing - 1
        b1 = nothing + 3
        b2 = nothing - 3
        b3 = nothing + 1
    scale = tl.full((), 1.0, u.dtype)
    for _ in tl.static_range(ORDER):
        scale = scale * tl.full((), per_spacing, u.dtype)
    b0 = tl.where(counts, b0 * scale, nothing)
    b1 = tl.where(counts, b1 * scale, nothing)
    b2 = tl.where(counts, b2 * scale, nothing)
    b3 = tl.where(counts, b3 * scale, nothing)
    return b0, b1, b2, b3


@triton.jit
def rows(array, index, wanted, feature, WIDTH: tl.constexpr):
    """A tile: these features of some rows of an array ``[.., WIDTH]``, zero where not wanted."""
    at = array + (index.to(tl.int64) * WIDTH)[:, None] + feature[None, :]
    return tl.load(at, mask=wanted[:, None] & (feature < WIDTH)[None, :], other=0.0)


@triton.jit
def four_rows(table, interval, wanted, feature, WIDTH: tl.constexpr):
    """The tiles of the table that belong to the four splines."""
    t0 = rows(table, interval, wanted, feature, WIDTH)
    t1 = rows(table, interval + 1, wanted, feature, WIDTH)
    t2 = rows(table, interval + 2, wanted, feature, WIDTH)
    t3 = rows(table, interval + 3, wanted, feature, WIDTH)
    return t0, t1, t2, t3


@triton.jit
def combine(b0, b1, b2, b3, t0, t1, t2, t3):
    """The filter, or its derivative."""
    return b0[:, None] * t0 + b1[:, None] * t1 + b2[:, None] * t2 + b3[:, None] * t3


@triton.jit
def features_of_program(WIDTH: tl.constexpr, BLOCK_F: tl.constexpr):
    """The block of features of this program."""
    return tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)


@triton.jit(do_not_specialize=["intervals"])
def reduce(
    rowptr,
    source,
    edges,
    distances,
    table,
    weight,
    x,
    out,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    ORDER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    INDIRECT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """R_k: a program per row of CSR; ``edges`` where those are not in plan order (INDIRECT)."""
    row = tl.program_id(0).to(tl.int64)
    feature = features_of_program(WIDTH, BLOCK_F)
    begin = tl.load(rowptr + row).to(tl.int64)
    end = tl.load(rowptr + row + 1).to(tl.int64)
    total = tl.zeros((BLOCK_E, BLOCK_F), dtype=out.dtype.element_ty)
    for first in range(begin, end, BLOCK_E):
        place = first + tl.arange(0, BLOCK_E)
        here = place < end
        edge = place
        if INDIRECT:
            edge = tl.load(edges + place, mask=here, other=0).to(tl.int64)
        d = tl.load(distances + edge, mask=here, other=0.0)
        j = tl.load(source + place, mask=here, other=0)
        interval, u, counts = locate(d, start, per_spacing, limit, intervals)
        b0, b1, b2, b3 = splines(u, counts, per_spacing, ORDER)
        wanted = here & counts
        t0, t1, t2, t3 = four_rows(table, interval, wanted, feature, WIDTH)
        w = combine(b0, b1, b2, b3, t0, t1, t2, t3)
        if WEIGHTED:
            w = w * tl.load(weight + edge, mask=here, other=0.0)[:, None]
        total += w * rows(x, j, wanted, feature, WIDTH)
    tl.store(out + row * WIDTH + feature, tl.sum(total, axis=0), mask=feature < WIDTH)


@triton.jit(do_not_specialize=["intervals", "num_edges"])
def product(
    source,
    target,
    distances,
    table,
    g,
    x,
    out,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    num_edges: tl.int64,
    ORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """P_k: a program per tile; sums over each block of features in ``out`` ``[blocks, E]``."""
    feature = features_of_program(WIDTH, BLOCK_F)
    edge = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    here = edge < num_edges
    d = tl.load(distances + edge, mask=here, other=0.0)
    i = tl.load(target + edge, mask=here, other=0)
    j = tl.load(source + edge, mask=here, other=0)
    interval, u, counts = locate(d, start, per_spacing, limit, intervals)
    b0, b1, b2, b3 = splines(u, counts, per_spacing, ORDER)
    wanted = here & counts
    t0, t1, t2, t3 = four_rows(table, interval, wanted, feature, WIDTH)
    w = combine(b0, b1, b2, b3, t0, t1, t2, t3)
    pairs = rows(g, i, wanted, feature, WIDTH) * rows(x, j, wanted, feature, WIDTH)
    at = tl.program_id(1) * num_edges + edge
    tl.store(out + at, tl.sum(pairs * w, axis=1), mask=here)


@triton.jit(do_not_specialize=["intervals", "num_edges"])
def reduce_backward(
    rowptr,
    source,
    distances,
    table,
    g,
    x,
    out_x,
    out_d,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    num_edges: tl.int64,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradients of R_0 by x and d over a symmetric graph, in one walk: a program per atom.

    Both ends of an edge see the same filter, so the edges into an atom tell what leaves it.
    """
    row = tl.program_id(0).to(tl.int64)
    feature = features_of_program(WIDTH, BLOCK_F)
    begin = tl.load(rowptr + row).to(tl.int64)
    end = tl.load(rowptr + row + 1).to(tl.int64)
    at = row * WIDTH + feature
    g_i = tl.load(g + at, mask=feature < WIDTH, other=0.0)
    dx = tl.zeros((BLOCK_E, BLOCK_F), dtype=out_x.dtype.element_ty)
    for first in range(begin, end, BLOCK_E):
        edge = first + tl.arange(0, BLOCK_E)
        here = edge < end
        d = tl.load(distances + edge, mask=here, other=0.0)
        j = tl.load(source + edge, mask=here, other=0)
        interval, u, counts = locate(d, start, per_spacing, limit, intervals)
        wanted = here & counts
        t0, t1, t2, t3 = four_rows(table, interval, wanted, feature, WIDTH)
        b0, b1, b2, b3 = splines(u, counts, per_spacing, 0)
        dx += combine(b0, b1, b2, b3, t0, t1, t2, t3) * rows(g, j, wanted, feature, WIDTH)
        b0, b1, b2, b3 = splines(u, counts, per_spacing, 1)
        slope = combine(b0, b1, b2, b3, t0, t1, t2, t3)
        dd = tl.sum(slope * rows(x, j, wanted, feature, WIDTH) * g_i[None, :], axis=1)
        tl.store(out_d + tl.program_id(1) * num_edges + edge, dd, mask=here)
    tl.store(out_x + at, tl.sum(dx, axis=0), mask=feature < WIDTH)


@triton.jit(do_not_specialize=["intervals", "num_edges"])
def reduce_double_backward(
    rowptr,
    source,
    reverse,
    distances,
    table,
    g,
    x,
    y,
    s,
    out_g,
    out_x,
    out_d,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    num_edges: tl.int64,
    FOR_DISTANCES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradients of :func:`reduce_backward` by g, x and d, with cotangents y of dx and s of dd."""
    row = tl.program_id(0).to(tl.int64)
    feature = features_of_program(WIDTH, BLOCK_F)
    begin = tl.load(rowptr + row).to(tl.int64)
    end = tl.load(rowptr + row + 1).to(tl.int64)
    at = row * WIDTH + feature
    g_i = tl.load(g + at, mask=feature < WIDTH, other=0.0)
    dg = tl.zeros((BLOCK_E, BLOCK_F), dtype=out_g.dtype.element_ty)
    dx = tl.zeros((BLOCK_E, BLOCK_F), dtype=out_x.dtype.element_ty)
    for first in range(begin, end, BLOCK_E):
        edge = first + tl.arange(0, BLOCK_E)
        here = edge < end
        d = tl.load(distances + edge, mask=here, other=0.0)
        j = tl.load(source + edge, mask=here, other=0)
        back = tl.load(reverse + edge, mask=here, other=0)
        s_in = tl.load(s + edge, mask=here, other=0.0)
        s_out = tl.load(s + back, mask=here, other=0.0)
        interval, u, counts = locate(d, start, per_spacing, limit, intervals)
        wanted = here & counts
        t0, t1, t2, t3 = four_rows(table, interval, wanted, feature, WIDTH)
        x_s = rows(x, j, wanted, feature, WIDTH) * s_in[:, None]
        y_j = rows(y, j, wanted, feature, WIDTH)
        b0, b1, b2, b3 = splines(u, counts, per_spacing, 0)
        dg += combine(b0, b1, b2, b3, t0, t1, t2, t3) * y_j
        b0, b1, b2, b3 = splines(u, counts, per_spacing, 1)
        slope = combine(b0, b1, b2, b3, t0, t1, t2, t3)
        dg += slope * x_s
        dx += slope * rows(g, j, wanted, feature, WIDTH) * s_out[:, None]
        if FOR_DISTANCES:
            b0, b1, b2, b3 = splines(u, counts, per_spacing, 2)
            bend = combine(b0, b1, b2, b3, t0, t1, t2, t3)
            dd = tl.sum((slope * y_j + bend * x_s) * g_i[None, :], axis=1)
            tl.store(out_d + tl.program_id(1) * num_edges + edge, dd, mask=here)
    tl.store(out_g + at, tl.sum(dg, axis=0), mask=feature < WIDTH)
    tl.store(out_x + at, tl.sum(dx, axis=0), mask=feature < WIDTH)
