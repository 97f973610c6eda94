r"""Loops of the convolution over destination atoms, see :mod:`pyg_schnet.ops.reference`.

Every kernel takes a pointer to its arguments, laid out by :mod:`pyg_schnet.ops.cpu`, and takes
tasks (runs of atoms) from a shared counter until none are left. A task is computed in one order
whoever takes it, so results do not depend on the number of threads.

A panel of features of the filter is interpolated in registers and used at once. In a symmetric
graph both directions of a pair of atoms use it, where both atoms belong to one task: the
pair is visited from the atom with the higher number, whose own sums stay in registers.
"""

# Numba infers the types of these functions when it compiles them, by rules mypy does not know.
# mypy: ignore-errors

from numba import njit

from .simd import (
    cubic,
    get,
    get_index,
    lanes,
    load,
    nothing,
    number,
    put,
    store,
    take,
    tap,
    total,
    word,
    zero,
)

# Position of each argument, in units of eight bytes. Addresses are 0 where there is no array.
COUNTER, TASKS, COUNT, WIDTH, INTERVALS, SORTED = range(6)
START, SCALE, LIMIT = range(6, 9)
ROWPTR, SOURCE, TARGET, BLOCKS, EDGES, REVERSE = range(9, 15)
DISTANCES, TABLE, WEIGHT, G, X, Y, S = range(15, 22)
OUT_G, OUT_X, OUT_D, SCRATCH, RANGES = range(22, 27)
# Coefficients of the taps, of W and its next two derivatives: 16 numbers each.
TAPS, TAPS_1, TAPS_2 = 27, 43, 59
SIZE = 75


@njit(error_model="numpy")
def scaled(args, distance):
    """Distance in units of the spacing, from the first knot on."""
    return (distance - number(args, START)) * number(args, SCALE)


@njit(error_model="numpy")
def interval(args, t):
    """First row of the table for a scaled distance; zero for NaN."""
    k = 0
    if t >= 0:
        k = min(int(t), word(args, INTERVALS) - 1)
    return k


@njit(error_model="numpy")
def spline(args, offset, active, taps):
    """The filter: four rows of the table from ``offset`` on, weighted."""
    table, width = word(args, TABLE), word(args, WIDTH)
    return (
        load(args, table, offset, active) * tap(taps, 0)
        + load(args, table, offset + width, active) * tap(taps, 1)
        + load(args, table, offset + 2 * width, active) * tap(taps, 2)
        + load(args, table, offset + 3 * width, active) * tap(taps, 3)
    )


@njit(error_model="numpy")
def cut(rowptr, num_atoms, task, tasks):
    """First atom of a task, so that tasks have about as many edges each."""
    if task >= tasks:
        return num_atoms
    goal = get_index(rowptr, num_atoms) * task // tasks
    low, high = 0, num_atoms
    while low < high:
        middle = (low + high) // 2
        if get_index(rowptr, middle) < goal:
            low = middle + 1
        else:
            high = middle
    return low


def reduce(args):
    """R_k over any edges."""
    rowptr, source, edges = word(args, ROWPTR), word(args, SOURCE), word(args, EDGES)
    distances, weight = word(args, DISTANCES), word(args, WEIGHT)
    x, out = word(args, X), word(args, OUT_X)
    num_atoms, tasks, width = word(args, COUNT), word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin = cut(rowptr, num_atoms, task, tasks)
        end = cut(rowptr, num_atoms, task + 1, tasks)
        for f in range(0, width, lanes(args)):
            active = width - f
            for i in range(begin, end):
                result = zero(args)
                for e in range(get_index(rowptr, i), get_index(rowptr, i + 1)):
                    edge = e
                    if edges != 0:
                        edge = get_index(edges, e)
                    t = scaled(args, get(args, distances, edge))
                    if t < 0 or t >= limit:
                        continue
                    k = interval(args, t)
                    taps = cubic(args, TAPS, t - k)
                    if weight != 0:
                        taps = taps * get(args, weight, edge)
                    w = spline(args, k * width + f, active, taps)
                    j = get_index(source, e)
                    result = result + w * load(args, x, j * width + f, active)
                store(args, out, i * width + f, active, result)


def product(args):
    """P_k over any edges."""
    rowptr, source = word(args, ROWPTR), word(args, SOURCE)
    distances, g, x, out = word(args, DISTANCES), word(args, G), word(args, X), word(args, OUT_D)
    num_atoms, tasks, width = word(args, COUNT), word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin = cut(rowptr, num_atoms, task, tasks)
        end = cut(rowptr, num_atoms, task + 1, tasks)
        for f in range(0, width, lanes(args)):
            active = width - f
            for i in range(begin, end):
                g_i = load(args, g, i * width + f, active)
                for e in range(get_index(rowptr, i), get_index(rowptr, i + 1)):
                    value = get(args, out, e) if f > 0 else nothing(args)
                    t = scaled(args, get(args, distances, e))
                    if not (t < 0 or t >= limit):
                        k = interval(args, t)
                        w = spline(args, k * width + f, active, cubic(args, TAPS, t - k))
                        j = get_index(source, e)
                        value += total(g_i * w * load(args, x, j * width + f, active))
                    put(args, out, e, value)


def sweep(args):
    """R_0 over a symmetric graph."""
    rowptr, source, blocks = word(args, ROWPTR), word(args, SOURCE), word(args, BLOCKS)
    distances, x, out = word(args, DISTANCES), word(args, X), word(args, OUT_X)
    tasks, width = word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin, end = get_index(blocks, task), get_index(blocks, task + 1)
        for f in range(0, width, lanes(args)):
            active = width - f
            for i in range(begin, end):
                x_i = load(args, x, i * width + f, active)
                result = zero(args)
                last = get_index(rowptr, i + 1)
                for e in range(get_index(rowptr, i), last):
                    j = get_index(source, e)
                    if i < j < end:
                        if get_index(source, last - 1) < end:
                            break
                        continue
                    t = scaled(args, get(args, distances, e))
                    if t < 0 or t >= limit:
                        continue
                    k = interval(args, t)
                    w = spline(args, k * width + f, active, cubic(args, TAPS, t - k))
                    at_j = j * width + f
                    result = result + w * load(args, x, at_j, active)
                    if begin <= j < i:
                        y_j = load(args, out, at_j, active) + w * x_i
                        store(args, out, at_j, active, y_j)
                store(args, out, i * width + f, active, result)


def sweep_backward(args):
    """Gradients of R_0 by x and d over a symmetric graph."""
    rowptr, source, blocks = word(args, ROWPTR), word(args, SOURCE), word(args, BLOCKS)
    distances, reverse = word(args, DISTANCES), word(args, REVERSE)
    g, x = word(args, G), word(args, X)
    dx, dd = word(args, OUT_X), word(args, OUT_D)
    tasks, width = word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin, end = get_index(blocks, task), get_index(blocks, task + 1)
        for f in range(0, width, lanes(args)):
            active = width - f
            for i in range(begin, end):
                g_i = load(args, g, i * width + f, active)
                x_i = load(args, x, i * width + f, active)
                dx_i = zero(args)
                last = get_index(rowptr, i + 1)
                for e in range(get_index(rowptr, i), last):
                    j = get_index(source, e)
                    if i < j < end:
                        if get_index(source, last - 1) < end:
                            break
                        continue
                    pair = begin <= j < i
                    back = get_index(reverse, e)
                    t = scaled(args, get(args, distances, e))
                    if t < 0 or t >= limit:
                        put(args, dd, e, nothing(args))
                        if pair:
                            put(args, dd, back, nothing(args))
                        continue
                    k = interval(args, t)
                    w = spline(args, k * width + f, active, cubic(args, TAPS, t - k))
                    slope = spline(args, k * width + f, active, cubic(args, TAPS_1, t - k))
                    at_j = j * width + f
                    g_j = load(args, g, at_j, active)
                    dx_i = dx_i + w * g_j
                    into_i = total(g_i * load(args, x, at_j, active) * slope)
                    put(args, dd, e, into_i if f == 0 else into_i + get(args, dd, e))
                    if pair:
                        dx_j = load(args, dx, at_j, active) + w * g_i
                        store(args, dx, at_j, active, dx_j)
                        into_j = total(g_j * x_i * slope)
                        put(args, dd, back, into_j if f == 0 else into_j + get(args, dd, back))
                store(args, dx, i * width + f, active, dx_i)


def sweep_double_backward(args):
    """Gradients of :func:`sweep_backward` by g, x and d, with cotangents y of dx and s of dd."""
    rowptr, source, blocks = word(args, ROWPTR), word(args, SOURCE), word(args, BLOCKS)
    distances, reverse = word(args, DISTANCES), word(args, REVERSE)
    g, x, y, s = word(args, G), word(args, X), word(args, Y), word(args, S)
    dg, dx, dd = word(args, OUT_G), word(args, OUT_X), word(args, OUT_D)
    tasks, width = word(args, TASKS), word(args, WIDTH)
    limit = number(args, LIMIT)
    while True:
        task = take(args)
        if task >= tasks:
            return
        begin, end = get_index(blocks, task), get_index(blocks, task + 1)
        for f in range(0, width, lanes(args)):
            active = width - f
            for i in range(begin, end):
                at_i = i * width + f
                g_i, x_i = load(args, g, at_i, active), load(args, x, at_i, active)
                y_i = load(args, y, at_i, active)
                dg_i, dx_i = zero(args), zero(args)
                last = get_index(rowptr, i + 1)
                for e in range(get_index(rowptr, i), last):
                    j = get_index(source, e)
                    if i < j < end:
                        if get_index(source, last - 1) < end:
                            break
                        continue
                    pair = begin <= j < i
                    back = get_index(reverse, e)
                    t = scaled(args, get(args, distances, e))
                    if t < 0 or t >= limit:
                        if dd != 0:
                            put(args, dd, e, nothing(args))
                            if pair:
                                put(args, dd, back, nothing(args))
                        continue
                    k = interval(args, t)
                    row, at_j = k * width + f, j * width + f
                    w = spline(args, row, active, cubic(args, TAPS, t - k))
                    slope = spline(args, row, active, cubic(args, TAPS_1, t - k))
                    s_e, s_back = get(args, s, e), get(args, s, back)
                    g_j, x_j = load(args, g, at_j, active), load(args, x, at_j, active)
                    y_j = load(args, y, at_j, active)
                    dg_i = dg_i + w * y_j + slope * x_j * s_e
                    dx_i = dx_i + slope * g_j * s_back
                    if pair:
                        dg_j = load(args, dg, at_j, active) + w * y_i + slope * x_i * s_back
                        store(args, dg, at_j, active, dg_j)
                        dx_j = load(args, dx, at_j, active) + slope * g_i * s_e
                        store(args, dx, at_j, active, dx_j)
                    if dd != 0:
                        bend = spline(args, row, active, cubic(args, TAPS_2, t - k))
                        into_i = total(g_i * (slope * y_j + bend * x_j * s_e))
                        put(args, dd, e, into_i if f == 0 else into_i + get(args, dd, e))
                        if pair:
                            into_j = total(g_j * (slope * y_i + bend * x_i * s_back))
                            put(args, dd, back, into_j if f == 0 else into_j + get(args, dd, back))
                store(args, dg, at_i, active, dg_i)
                store(args, dx, at_i, active, dx_i)
