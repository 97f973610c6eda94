r"""Energy and forces of one small molecule by a frozen network, in one kernel.

Every operator of PyTorch costs a few microseconds before it begins, and a prediction has a hundred
of them: for a dozen atoms that is nearly all of its time. Here neighbours, network and its reverse
pass are one function. It declines whatever is unusual, by returning false, and leaves that to the
operators, which know how to report it.
"""

# Numba infers the types of these functions when it compiles them, by rules mypy does not know.
# mypy: ignore-errors

import math

import numpy as np
from numba import njit

from .compilation import kernel, source_digest
from .cpu_launch import panel_of_registers
from .cpu_softplus import value_and_slope
from .simd import get, handle, load, store, total, zero

# NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
# Features come in panels of four registers. Where widths are no multiples of that, ``partial`` is
# not None, and only some lanes of the last are active: the kernel is compiled for either.
LANES = panel_of_registers(4, masked=False).lanes
_whole, _masked = (handle(panel_of_registers(4, masked)) for masked in (False, True))


@njit(error_model="numpy", fastmath=_MATH)
def _evaluate(
    z,
    pos,
    species,
    embedding,
    before,
    after,
    last,
    first,
    second,
    tables,
    offsets,
    partial,
    grid,
    silu,
    out,
):
    r"""Atom-wise energies, features and forces of one molecule.

    Weights are read where the modules keep them, so that changes are seen.

    Args:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]``.
        species: Which atomic numbers are allowed, ``[101]``.
        embedding: Features of the species, ``[101, H]``.
        before: Dense layers before the sums over neighbours, ``[F, H]``: for each a weight, a bias,
            the weight transposed, and the weight of which that was made; both are made anew when
            the weight has changed.
        after: Those after them, ``[H, F]``.
        last: Those behind the activations, ``[H, H]``.
        first: Dense layer of the readout, ``[H/2, H]``.
        second: Weight ``[1, H/2]`` and bias ``[1]`` of its last layer.
        tables: Spline coefficients of the filters ``[K, F]``, by layer.
        offsets: Energy of each species ``[101]``, mean and scale of the contributions.
        partial: ``None`` if F and H are multiples of ``LANES``, else anything.
        grid: Squared cutoff, first knot, inverse spacing of knots, upper limit of scaled
            distances, and whether filters vanish from there on.
        silu: Whether the readout has SiLU as activation in place of the shifted softplus.
        out: Contributions ``[N]``, features ``[N, H]`` and forces ``[N, 3]``, to be written; there
            are no forces if the last has no rows.

    Returns:
        Whether the molecule was one for this kernel.
    """
    squared_cutoff, start, inverse_spacing, limit, vanishes = grid
    references, mean, scale = offsets[0], offsets[1][()], offsets[2][()]
    contributions, x, forces = out
    num_atoms = z.shape[0]
    for i in range(num_atoms):
        if not 0 < z[i] < species.shape[0] or not species[z[i]]:
            return False
        for c in range(3):
            if not abs(pos[i, c]) < np.inf:
                return False

    # 1. Pairs, and where their distances lie between the knots.
    most = num_atoms * (num_atoms - 1) // 2
    rowptr = np.zeros(num_atoms + 1, np.int64)  # of pairs by their higher atom
    others = np.empty(most, np.int64)
    knots = np.empty(most, np.int64)
    taps = np.empty((most, 8), np.float32)  # of the filter, then of its derivative
    unit = np.empty((most, 3), pos.dtype)
    count = 0
    for i in range(num_atoms):
        for j in range(i):
            vector = unit[count]
            for c in range(3):
                vector[c] = pos[j, c] - pos[i, c]
            squared = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]
            if not squared < np.inf:  # of coordinates that are huge
                return False
            if not squared < squared_cutoff:
                continue
            distance = math.sqrt(squared)
            t = (distance - start) * inverse_spacing
            if distance == 0.0 or t < 0.0 or (t >= limit and not vanishes):
                return False
            if t >= limit:
                continue
            for c in range(3):
                vector[c] /= distance
            _set_taps(t - int(t), inverse_spacing, taps[count])
            others[count], knots[count] = j, int(t)
            count += 1
        rowptr[i + 1] = count
    pairs = (rowptr, others, knots)

    # 2. Forward, keeping what the way back needs.
    num_layers, width, hidden = len(tables), tables[0].shape[1], x.shape[1]
    u = np.empty((num_layers, num_atoms, width), np.float32)
    slopes = np.empty((num_layers, num_atoms, hidden), np.float32)
    y = np.empty((num_atoms, width), np.float32)
    v = np.empty((num_atoms, hidden), np.float32)
    for i in range(num_atoms):
        x[i] = embedding[z[i]]
    for n in range(num_layers):
        _refresh(before[n])
        _refresh(after[n])
        _refresh(last[n])
        _linear(x, before[n], u[n], False, partial)
        _convolve(u[n], pairs, taps, tables[n], y, partial)
        _linear(y, after[n], v, False, partial)
        _activate(v, slopes[n])
        _linear(v, last[n], x, True, partial)
    half = first[0].shape[0]
    h = np.empty((num_atoms, half), np.float32)
    h_slopes = np.empty((num_atoms, half), np.float32)
    _refresh(first)
    _linear(x, first, h, False, True)  # half as wide
    if silu:
        _activate_silu(h, h_slopes)
    else:
        _activate(h, h_slopes)
    weight, bias = second
    for i in range(num_atoms):
        value = bias[0]
        for f in range(half):
            value += h[i, f] * weight[0, f]
        contributions[i] = references[z[i]] + mean + scale * value
    if forces.shape[0] == 0:
        return True

    # 3. Backward.
    for i in range(num_atoms):
        for f in range(half):
            h[i, f] = np.float32(scale) * weight[0, f] * h_slopes[i, f]
    by_x = np.empty((num_atoms, hidden), np.float32)
    _transposed_linear(h, first, by_x, False, partial)
    pulls = np.zeros(count, np.float32)
    by_u = np.empty((num_atoms, width), np.float32)
    for n in range(num_layers - 1, -1, -1):
        _transposed_linear(by_x, last[n], v, False, partial)
        _scale(v, slopes[n])
        _transposed_linear(v, after[n], y, False, partial)
        _convolve_backward(y, u[n], pairs, taps, tables[n], by_u, pulls, partial)
        if n > 0:  # embeddings do not depend on positions
            _transposed_linear(by_u, before[n], by_x, True, partial)
    forces[:] = 0.0
    for i in range(num_atoms):
        for p in range(rowptr[i], rowptr[i + 1]):
            for c in range(3):
                pull = pulls[p] * unit[p, c]
                forces[i, c] += pull
                forces[others[p], c] -= pull
    return True


@njit(error_model="numpy", fastmath=_MATH)
def _set_taps(u, inverse_spacing, taps):
    """The four cubic B-splines at u, and their derivatives by the distance."""
    v = 1.0 - u
    taps[0] = v * v * v / 6.0
    taps[1] = (4.0 - 3.0 * u * u * (1.0 + v)) / 6.0
    taps[2] = (4.0 - 3.0 * v * v * (1.0 + u)) / 6.0
    taps[3] = u * u * u / 6.0
    taps[4] = -v * v * 0.5 * inverse_spacing
    taps[5] = (3.0 * u - 4.0) * u * 0.5 * inverse_spacing
    taps[6] = (1.0 + 2.0 * u - 3.0 * u * u) * 0.5 * inverse_spacing
    taps[7] = u * u * 0.5 * inverse_spacing


@njit(error_model="numpy", fastmath=_MATH)
def _refresh(layer):
    """Transposes the weight of a layer again if it has changed."""
    weight, _, transposed, known = layer
    changed = False
    for f in range(weight.shape[0]):
        for k in range(weight.shape[1]):
            changed |= weight[f, k] != known[f, k]
    if changed:
        for f in range(weight.shape[0]):
            for k in range(weight.shape[1]):
                transposed[k, f] = weight[f, k]
        for f in range(weight.shape[0]):  # when all is there: other threads may look
            for k in range(weight.shape[1]):
                known[f, k] = weight[f, k]


@njit(error_model="numpy", fastmath=_MATH)
def _linear(x, layer, out, add, partial):
    """``x @ weight.T + bias``, added to ``out`` or in place of it."""
    _, bias, transposed, _ = layer
    _multiply(x, transposed, bias.ctypes.data, out, add, partial)


@njit(error_model="numpy", fastmath=_MATH)
def _transposed_linear(x, layer, out, add, partial):
    """``x @ weight``, added to ``out`` or in place of it."""
    _multiply(x, layer[0], 0, out, add, partial)


@njit(error_model="numpy")
def _multiply(x, matrix, bias, out, add, partial):
    if partial is None:
        _multiply_panels(_whole(), x, matrix, bias, out, add)
    else:
        _multiply_panels(_masked(), x, matrix, bias, out, add)


@njit(error_model="numpy")
def _multiply_panels(panel, x, matrix, bias, out, add):
    """Rows in threes: their sums stay in registers, and each panel of the matrix serves three."""
    depth, width = matrix.shape
    rows = x.shape[0]
    x_, matrix_, out_ = x.ctypes.data, matrix.ctypes.data, out.ctypes.data
    for f in range(0, width, LANES):
        active = width - f
        for i in range(0, rows, 3):
            j, k = min(i + 1, rows - 1), min(i + 2, rows - 1)  # at the end, one more than once
            a = zero(panel)
            if bias != 0:
                a = load(panel, bias, f, active)
            b = c = a
            if add:
                a = a + load(panel, out_, i * width + f, active)
                b = b + load(panel, out_, j * width + f, active)
                c = c + load(panel, out_, k * width + f, active)
            for m in range(depth):
                w = load(panel, matrix_, m * width + f, active)
                a = a + w * get(panel, x_, i * depth + m)
                b = b + w * get(panel, x_, j * depth + m)
                c = c + w * get(panel, x_, k * depth + m)
            store(panel, out_, i * width + f, active, a)
            store(panel, out_, j * width + f, active, b)
            store(panel, out_, k * width + f, active, c)


@njit(error_model="numpy", fastmath=_MATH)
def _activate(v, slopes):
    """Shifted softplus in place, and its derivative."""
    for i in range(v.shape[0]):
        for f in range(v.shape[1]):
            v[i, f], slopes[i, f] = value_and_slope(v[i, f])


@njit(error_model="numpy", fastmath=_MATH)
def _activate_silu(v, slopes):
    """SiLU in place, and its derivative."""
    one = np.float32(1.0)
    for i in range(v.shape[0]):
        for f in range(v.shape[1]):
            x = v[i, f]
            sigmoid = value_and_slope(x)[1]
            v[i, f] = x * sigmoid
            slopes[i, f] = sigmoid * (one + x * (one - sigmoid))


@njit(error_model="numpy", fastmath=_MATH)
def _scale(x, factors):
    for i in range(x.shape[0]):
        for f in range(x.shape[1]):
            x[i, f] *= factors[i, f]


@njit(error_model="numpy")
def _convolve(u, pairs, taps, table, y, partial):
    """Sums over neighbours of features times filters, both directions of each pair at once."""
    if partial is None:
        _convolve_panels(_whole(), u, pairs, taps, table, y)
    else:
        _convolve_panels(_masked(), u, pairs, taps, table, y)


@njit(error_model="numpy")
def _convolve_panels(panel, u, pairs, taps, table, y):
    rowptr, others, knots = pairs
    rows, width = u.shape
    u_, taps_, table_, y_ = u.ctypes.data, taps.ctypes.data, table.ctypes.data, y.ctypes.data
    for f in range(0, width, LANES):
        active = width - f
        for i in range(rows):
            u_i, y_i = load(panel, u_, i * width + f, active), zero(panel)
            for p in range(rowptr[i], rowptr[i + 1]):
                w = _filter(panel, taps_, 8 * p, table_, knots[p] * width + f, width, active)
                j = others[p] * width + f
                y_i = y_i + w * load(panel, u_, j, active)
                store(panel, y_, j, active, load(panel, y_, j, active) + w * u_i)
            store(panel, y_, i * width + f, active, y_i)  # all j < i: nothing is there yet


@njit(error_model="numpy")
def _filter(panel, taps, tap, table, row, width, active):
    return (
        load(panel, table, row, active) * get(panel, taps, tap)
        + load(panel, table, row + width, active) * get(panel, taps, tap + 1)
        + load(panel, table, row + 2 * width, active) * get(panel, taps, tap + 2)
        + load(panel, table, row + 3 * width, active) * get(panel, taps, tap + 3)
    )


@njit(error_model="numpy")
def _convolve_backward(g, u, pairs, taps, table, by_u, pulls, partial):
    """Gradients of :func:`_convolve` by features, and by distances, which add to ``pulls``."""
    if partial is None:
        _convolve_backward_panels(_whole(), g, u, pairs, taps, table, by_u, pulls)
    else:
        _convolve_backward_panels(_masked(), g, u, pairs, taps, table, by_u, pulls)


@njit(error_model="numpy")
def _convolve_backward_panels(panel, g, u, pairs, taps, table, by_u, pulls):
    rowptr, others, knots = pairs
    rows, width = u.shape
    taps_, table_ = taps.ctypes.data, table.ctypes.data
    g_, u_, by_u_ = g.ctypes.data, u.ctypes.data, by_u.ctypes.data
    for f in range(0, width, LANES):
        active = width - f
        for i in range(rows):
            g_i = load(panel, g_, i * width + f, active)
            u_i = load(panel, u_, i * width + f, active)
            by_i = zero(panel)
            for p in range(rowptr[i], rowptr[i + 1]):
                row, j = knots[p] * width + f, others[p] * width + f
                w = _filter(panel, taps_, 8 * p, table_, row, width, active)
                slope = _filter(panel, taps_, 8 * p + 4, table_, row, width, active)
                g_j, u_j = load(panel, g_, j, active), load(panel, u_, j, active)
                pulls[p] += total(slope * (g_i * u_j + g_j * u_i))
                by_i = by_i + w * g_j
                store(panel, by_u_, j, active, load(panel, by_u_, j, active) + w * g_i)
            store(panel, by_u_, i * width + f, active, by_i)


def _kept(digest):
    """The kernel as it is kept on disk, where what a function holds on to is part of its name."""

    @kernel(error_model="numpy", fastmath=_MATH)
    def evaluate(*args):
        if digest == "":
            return False
        return _evaluate(*args)

    return evaluate


# Numba's cache watches this file, but not those whose functions are used here.
evaluate = _kept(source_digest())
