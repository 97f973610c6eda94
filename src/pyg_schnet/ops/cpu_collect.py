r"""Loops of the collect primitive over edges sorted by knot.

Edges in one interval of knots add to the same four rows of the table, so these stay in registers.
A task is a run of edges; the rows where tasks meet are summed in a second step, in one order
whatever the number of threads.
"""

# Numba infers the types of these functions when it compiles them, by rules mypy does not know.
# mypy: ignore-errors

from numba import njit

from .cpu_kernels import (
    COUNT,
    DISTANCES,
    EDGES,
    INTERVALS,
    LIMIT,
    OUT_X,
    RANGES,
    REVERSE,
    SCRATCH,
    SORTED,
    SOURCE,
    TAPS,
    TAPS_1,
    TARGET,
    TASKS,
    WEIGHT,
    WIDTH,
    G,
    S,
    X,
    Y,
    interval,
    scaled,
)
from .simd import (
    cubic,
    get,
    get_index,
    lanes,
    load,
    number,
    put_index,
    set_word,
    store,
    take,
    tap,
    word,
    zero,
)


@njit(error_model="numpy")
def first_row(args, begin, end):
    """Interval of the first edge of a run that lies on the knots, -1 if none does."""
    distances, edges, limit = word(args, DISTANCES), word(args, EDGES), number(args, LIMIT)
    for n in range(begin, end):
        t = scaled(args, get(args, distances, get_index(edges, n)))
        if not (t < 0 or t >= limit):
            return interval(args, t)
    return -1


def collect(args):
    """C_k; both directions of each pair at once where there are reverse edges."""
    source, target, edges = word(args, SOURCE), word(args, TARGET), word(args, EDGES)
    distances, weight, reverse = word(args, DISTANCES), word(args, WEIGHT), word(args, REVERSE)
    g, x, out, ranges = word(args, G), word(args, X), word(args, SCRATCH), word(args, RANGES)
    count, tasks, width = word(args, COUNT), word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin, end = count * task // tasks, count * (task + 1) // tasks
        low = first_row(args, begin, end)
        high = low
        for f in range(0, width, lanes(args)):
            active = width - f
            row = low
            sum_0, sum_1, sum_2, sum_3 = zero(args), zero(args), zero(args), zero(args)
            for n in range(begin, end):
                edge = get_index(edges, n)
                t = scaled(args, get(args, distances, edge))
                if t < 0 or t >= limit:
                    continue
                k = interval(args, t)
                if k < row:
                    set_word(args, SORTED, 0)
                    break
                while row < k:
                    store(args, out, (row + 4 * task) * width + f, active, sum_0)
                    sum_0, sum_1, sum_2, sum_3 = sum_1, sum_2, sum_3, zero(args)
                    row += 1
                i, j = get_index(target, edge), get_index(source, edge)
                at_i, at_j = i * width + f, j * width + f
                p = load(args, g, at_i, active) * load(args, x, at_j, active)
                if weight != 0:
                    p = p * get(args, weight, edge)
                if reverse != 0 and i != j:
                    q = load(args, g, at_j, active) * load(args, x, at_i, active)
                    if weight != 0:
                        q = q * get(args, weight, get_index(reverse, edge))
                    p = p + q
                taps = cubic(args, TAPS, t - k)
                sum_0 = sum_0 + p * tap(taps, 0)
                sum_1 = sum_1 + p * tap(taps, 1)
                sum_2 = sum_2 + p * tap(taps, 2)
                sum_3 = sum_3 + p * tap(taps, 3)
            if low >= 0:
                at = (row + 4 * task) * width + f
                store(args, out, at, active, sum_0)
                store(args, out, at + width, active, sum_1)
                store(args, out, at + 2 * width, active, sum_2)
                store(args, out, at + 3 * width, active, sum_3)
            high = row
        put_index(ranges, 2 * task, low)
        put_index(ranges, 2 * task + 1, high)


def collect_backward(args):
    """C_0(g, y) + C_1(g, x, s) over a symmetric graph."""
    source, target, edges = word(args, SOURCE), word(args, TARGET), word(args, EDGES)
    distances, reverse = word(args, DISTANCES), word(args, REVERSE)
    g, x, y, s = word(args, G), word(args, X), word(args, Y), word(args, S)
    out, ranges = word(args, SCRATCH), word(args, RANGES)
    count, tasks, width = word(args, COUNT), word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin, end = count * task // tasks, count * (task + 1) // tasks
        low = first_row(args, begin, end)
        high = low
        for f in range(0, width, lanes(args)):
            active = width - f
            row = low
            sum_0, sum_1, sum_2, sum_3 = zero(args), zero(args), zero(args), zero(args)
            for n in range(begin, end):
                edge = get_index(edges, n)
                t = scaled(args, get(args, distances, edge))
                if t < 0 or t >= limit:
                    continue
                k = interval(args, t)
                if k < row:
                    set_word(args, SORTED, 0)
                    break
                while row < k:
                    store(args, out, (row + 4 * task) * width + f, active, sum_0)
                    sum_0, sum_1, sum_2, sum_3 = sum_1, sum_2, sum_3, zero(args)
                    row += 1
                i, j = get_index(target, edge), get_index(source, edge)
                at_i, at_j = i * width + f, j * width + f
                g_i = load(args, g, at_i, active)
                p = g_i * load(args, y, at_j, active)
                q = g_i * load(args, x, at_j, active) * get(args, s, edge)
                if i != j:
                    g_j = load(args, g, at_j, active)
                    s_back = get(args, s, get_index(reverse, edge))
                    p = p + g_j * load(args, y, at_i, active)
                    q = q + g_j * load(args, x, at_i, active) * s_back
                taps = cubic(args, TAPS, t - k)
                slopes = cubic(args, TAPS_1, t - k)
                sum_0 = sum_0 + p * tap(taps, 0) + q * tap(slopes, 0)
                sum_1 = sum_1 + p * tap(taps, 1) + q * tap(slopes, 1)
                sum_2 = sum_2 + p * tap(taps, 2) + q * tap(slopes, 2)
                sum_3 = sum_3 + p * tap(taps, 3) + q * tap(slopes, 3)
            if low >= 0:
                at = (row + 4 * task) * width + f
                store(args, out, at, active, sum_0)
                store(args, out, at + width, active, sum_1)
                store(args, out, at + 2 * width, active, sum_2)
                store(args, out, at + 3 * width, active, sum_3)
            high = row
        put_index(ranges, 2 * task, low)
        put_index(ranges, 2 * task + 1, high)


def merge(args):
    """Sums the rows that the tasks of :func:`collect` have left in scratch."""
    scratch, ranges, out = word(args, SCRATCH), word(args, RANGES), word(args, OUT_X)
    runs, tasks, width = word(args, COUNT), word(args, TASKS), word(args, WIDTH)
    rows = word(args, INTERVALS) + 3
    while True:
        task = take(args)
        if task >= tasks:
            return
        # Runs overlap by rising rows, else edges were not sorted by knot.
        highest = -1
        for run in range(runs):
            low = get_index(ranges, 2 * run)
            if low >= 0:
                if low < highest:
                    set_word(args, SORTED, 0)
                    return
                highest = get_index(ranges, 2 * run + 1)
        first = 0
        for row in range(rows * task // tasks, rows * (task + 1) // tasks):
            while first < runs and (
                get_index(ranges, 2 * first) < 0 or get_index(ranges, 2 * first + 1) + 3 < row
            ):
                first += 1
            for f in range(0, width, lanes(args)):
                active = width - f
                value = zero(args)
                for run in range(first, runs):
                    low = get_index(ranges, 2 * run)
                    if low < 0:
                        continue
                    if low > row:
                        break
                    if row <= get_index(ranges, 2 * run + 1) + 3:
                        at = (row + 4 * run) * width + f
                        value = value + load(args, scratch, at, active)
                store(args, out, row * width + f, active, value)
