r"""Triton kernels of the collect primitive over edges sorted by interval of the knots.

Edges in one interval add to the same four rows of the table, so these sums stay in registers. Long
intervals are cut into chunks: :func:`collect` sums up each chunk, :func:`merge` sums up chunks.
Both do so in one order. Chunks cost a twelfth of the traffic: they read two rows per edge, of which
there are 48 or so, and leave four rows that are read again.
"""

# Triton compiles these functions by types that mypy does not know.
# mypy: ignore-errors

import triton
import triton.language as tl

from .cuda_kernels import features_of_program, locate, rows, splines


@triton.jit
def pairs(
    edge,
    wanted,
    source,
    target,
    weight,
    g,
    x,
    y,
    feature,
    WEIGHTED: tl.constexpr,
    BACKWARD: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The tile that the splines of each edge multiply; in BACKWARD that of their slopes as well."""
    i = tl.load(target + edge, mask=wanted, other=0)
    j = tl.load(source + edge, mask=wanted, other=0)
    g_i = rows(g, i, wanted, feature, WIDTH)
    q = g_i * rows(x, j, wanted, feature, WIDTH)
    if WEIGHTED:
        q = q * tl.load(weight + edge, mask=wanted, other=0.0)[:, None]
    p = q
    if BACKWARD:
        p = g_i * rows(y, j, wanted, feature, WIDTH)
    return p, q


@triton.jit(do_not_specialize=["intervals"])
def collect(
    order,
    chunk_interval,
    chunk_begin,
    chunk_end,
    source,
    target,
    distances,
    weight,
    g,
    x,
    y,
    partial,
    moved,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    ORDER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BACKWARD: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Four rows of the table per chunk, ``partial`` ``[chunks, 4, WIDTH]``: a program per chunk.

    Of C_k(g, x, c); in BACKWARD of C_0(g, y) + C_1(g, x, c). Whichever programs meet an edge in
    another interval than it was sorted into write a one to ``moved``.
    """
    chunk = tl.program_id(0).to(tl.int64)
    feature = features_of_program(WIDTH, BLOCK_F)
    begin = tl.load(chunk_begin + chunk).to(tl.int64)
    end = tl.load(chunk_end + chunk).to(tl.int64)
    sorted_into = tl.load(chunk_interval + chunk)
    sum_0 = tl.zeros((BLOCK_E, BLOCK_F), dtype=partial.dtype.element_ty)
    sum_1 = tl.zeros((BLOCK_E, BLOCK_F), dtype=partial.dtype.element_ty)
    sum_2 = tl.zeros((BLOCK_E, BLOCK_F), dtype=partial.dtype.element_ty)
    sum_3 = tl.zeros((BLOCK_E, BLOCK_F), dtype=partial.dtype.element_ty)
    astray = tl.zeros((BLOCK_E,), dtype=tl.int32)
    for first in range(begin, end, BLOCK_E):
        place = first + tl.arange(0, BLOCK_E)
        here = place < end
        edge = tl.load(order + place, mask=here, other=0).to(tl.int64)
        d = tl.load(distances + edge, mask=here, other=0.0)
        interval, u, counts = locate(d, start, per_spacing, limit, intervals)
        wanted = here & counts
        astray = tl.where(wanted & (interval != sorted_into), 1, astray)
        p, q = pairs(
            edge, wanted, source, target, weight, g, x, y, feature, WEIGHTED, BACKWARD, WIDTH
        )
        b0, b1, b2, b3 = splines(u, counts, per_spacing, ORDER)
        sum_0 += b0[:, None] * p
        sum_1 += b1[:, None] * p
        sum_2 += b2[:, None] * p
        sum_3 += b3[:, None] * p
        if BACKWARD:
            b0, b1, b2, b3 = splines(u, counts, per_spacing, 1)
            sum_0 += b0[:, None] * q
            sum_1 += b1[:, None] * q
            sum_2 += b2[:, None] * q
            sum_3 += b3[:, None] * q
    at = partial + chunk * (4 * WIDTH) + feature
    real = feature < WIDTH
    tl.store(at, tl.sum(sum_0, axis=0), mask=real)
    tl.store(at + WIDTH, tl.sum(sum_1, axis=0), mask=real)
    tl.store(at + 2 * WIDTH, tl.sum(sum_2, axis=0), mask=real)
    tl.store(at + 3 * WIDTH, tl.sum(sum_3, axis=0), mask=real)
    tl.store(moved, 1, mask=tl.max(astray, axis=0) > 0)


@triton.jit(do_not_specialize=["intervals", "num_edges"])
def merge(
    interval_chunks,
    source,
    target,
    distances,
    weight,
    g,
    x,
    y,
    partial,
    moved,
    out,
    start: tl.float64,
    per_spacing: tl.float64,
    limit: tl.float64,
    intervals,
    num_edges: tl.int64,
    ORDER: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BACKWARD: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Sums what :func:`collect` has left: a program per row of the table.

    Where edges have moved since they were sorted each program looks for its own among all of them
    instead. That is slow but right, and the host need not know.
    """
    row = tl.program_id(0)
    feature = features_of_program(WIDTH, BLOCK_F)
    real = feature < WIDTH
    total = tl.zeros((BLOCK_E, BLOCK_F), dtype=out.dtype.element_ty)
    if tl.load(moved) == 0:
        for tap in tl.static_range(4):
            interval = row - tap
            known = (interval >= 0) & (interval < intervals)
            begin = tl.load(interval_chunks + interval, mask=known, other=0).to(tl.int64)
            end = tl.load(interval_chunks + interval + 1, mask=known, other=0).to(tl.int64)
            for first in range(begin, end, BLOCK_E):
                chunk = first + tl.arange(0, BLOCK_E)
                total += rows(partial, 4 * chunk + tap, chunk < end, feature, WIDTH)
    else:
        for first in range(0, num_edges, BLOCK_E):
            edge = first + tl.arange(0, BLOCK_E)
            here = edge < num_edges
            d = tl.load(distances + edge, mask=here, other=0.0)
            interval, u, counts = locate(d, start, per_spacing, limit, intervals)
            tap = row - interval
            wanted = here & counts & (tap >= 0) & (tap < 4)
            p, q = pairs(
                edge, wanted, source, target, weight, g, x, y, feature, WEIGHTED, BACKWARD, WIDTH
            )
            b0, b1, b2, b3 = splines(u, wanted, per_spacing, ORDER)
            b = tl.where(tap < 2, tl.where(tap == 0, b0, b1), tl.where(tap == 2, b2, b3))
            total += b[:, None] * p
            if BACKWARD:
                b0, b1, b2, b3 = splines(u, wanted, per_spacing, 1)
                b = tl.where(tap < 2, tl.where(tap == 0, b0, b1), tl.where(tap == 2, b2, b3))
                total += b[:, None] * q
    tl.store(out + row.to(tl.int64) * WIDTH + feature, tl.sum(total, axis=0), mask=real)
