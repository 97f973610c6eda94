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

from .compilation import kernel
from .cpu_softplus import value_and_slope

# NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


@kernel(error_model="numpy", fastmath=_MATH)
def evaluate(
    z, pos, species, embedding, before, after, last, first, second, tables, offsets, grid, silu, out
):
    r"""Atom-wise energies, features and forces of one molecule.

    Weights are read where the modules keep them, so that changes are seen.

    Args:
        z: Atomic numbers ``[N]``.
        pos: Positions ``[N, 3]``.
        species: Which atomic numbers are allowed, ``[101]``.
        embedding: Features of the species, ``[101, H]``.
        before: Weights ``[F, H]`` and biases ``[F]`` before the sums over neighbours, by layer.
        after: Those after them, ``[H, F]`` and ``[H]``.
        last: Those behind the activations, ``[H, H]`` and ``[H]``.
        first: Weight ``[H/2, H]`` and bias ``[H/2]`` of the readout.
        second: Weight ``[1, H/2]`` and bias ``[1]`` of its last layer.
        tables: Spline coefficients of the filters ``[K, F]``, by layer.
        offsets: Energy of each species ``[101]``, mean and scale of the contributions.
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
    atoms = np.empty((most, 2), np.int64)
    knots = np.empty(most, np.int64)
    taps = np.empty((most, 8), np.float32)  # of the filter, then of its derivative
    unit = np.empty((most, 3), pos.dtype)
    pairs = 0
    for i in range(num_atoms):
        for j in range(i):
            vector = unit[pairs]
            for c in range(3):
                vector[c] = pos[j, c] - pos[i, c]
            squared = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]
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
            _set_taps(t - int(t), inverse_spacing, taps[pairs])
            atoms[pairs, 0], atoms[pairs, 1], knots[pairs] = i, j, int(t)
            pairs += 1
    atoms = atoms[:pairs]

    # 2. Forward, keeping what the way back needs.
    num_layers, width, hidden = len(tables), tables[0].shape[1], x.shape[1]
    u = np.empty((num_layers, num_atoms, width), np.float32)
    slopes = np.empty((num_layers, num_atoms, hidden), np.float32)
    y = np.empty((num_atoms, width), np.float32)
    v = np.empty((num_atoms, hidden), np.float32)
    w = np.empty((num_atoms, hidden), np.float32)
    for i in range(num_atoms):
        x[i] = embedding[z[i]]
    for n in range(num_layers):
        _linear(x, before[n], u[n])
        _convolve(u[n], atoms, knots, taps, tables[n], y)
        _linear(y, after[n], v)
        _activate(v, slopes[n])
        _linear(v, last[n], w)
        _add(x, w)
    half = first[0].shape[0]
    h = np.empty((num_atoms, half), np.float32)
    h_slopes = np.empty((num_atoms, half), np.float32)
    _linear(x, first, h)
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
    _transposed_linear(h, first[0], w)
    pulls = np.zeros(pairs, np.float32)
    by_u = np.empty((num_atoms, width), np.float32)
    for n in range(num_layers - 1, -1, -1):
        _transposed_linear(w, last[n][0], v)
        for i in range(num_atoms):
            for f in range(hidden):
                v[i, f] *= slopes[n, i, f]
        _transposed_linear(v, after[n][0], y)
        _convolve_backward(y, u[n], atoms, knots, taps, tables[n], by_u, pulls)
        if n > 0:  # embeddings do not depend on positions
            _transposed_linear(by_u, before[n][0], v)
            _add(w, v)
    forces[:] = 0.0
    for p in range(pairs):
        i, j = atoms[p]
        for c in range(3):
            pull = pulls[p] * unit[p, c]
            forces[i, c] += pull
            forces[j, c] -= pull
    return True


@kernel(error_model="numpy", fastmath=_MATH)
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


@kernel(error_model="numpy", fastmath=_MATH)
def _linear(x, layer, out):
    """``x @ weight.T + bias``."""
    weight, bias = layer
    width, depth = weight.shape
    whole = width // 4 * 4
    for i in range(x.shape[0]):
        row = x[i]
        for f in range(0, whole, 4):
            a, b, c, d = bias[f], bias[f + 1], bias[f + 2], bias[f + 3]
            for k in range(depth):
                a += row[k] * weight[f, k]
                b += row[k] * weight[f + 1, k]
                c += row[k] * weight[f + 2, k]
                d += row[k] * weight[f + 3, k]
            out[i, f], out[i, f + 1], out[i, f + 2], out[i, f + 3] = a, b, c, d
        for f in range(whole, width):
            a = bias[f]
            for k in range(depth):
                a += row[k] * weight[f, k]
            out[i, f] = a


@kernel(error_model="numpy", fastmath=_MATH)
def _transposed_linear(x, weight, out):
    """``x @ weight``."""
    out[:] = np.float32(0.0)
    _add_product(x, weight, out)


@kernel(error_model="numpy", fastmath=_MATH)
def _add_product(x, matrix, out):
    depth, width = matrix.shape
    for i in range(x.shape[0]):
        row = out[i]
        whole = depth // 4 * 4
        for k in range(0, whole, 4):
            a, b, c, d = x[i, k], x[i, k + 1], x[i, k + 2], x[i, k + 3]
            for f in range(width):
                row[f] += (
                    a * matrix[k, f]
                    + b * matrix[k + 1, f]
                    + c * matrix[k + 2, f]
                    + d * matrix[k + 3, f]
                )
        for k in range(whole, depth):
            for f in range(width):
                row[f] += x[i, k] * matrix[k, f]


@kernel(error_model="numpy", fastmath=_MATH)
def _add(x, y):
    for i in range(x.shape[0]):
        for f in range(x.shape[1]):
            x[i, f] += y[i, f]


@kernel(error_model="numpy", fastmath=_MATH)
def _activate(v, slopes):
    """Shifted softplus in place, and its derivative."""
    for i in range(v.shape[0]):
        for f in range(v.shape[1]):
            v[i, f], slopes[i, f] = value_and_slope(v[i, f])


@kernel(error_model="numpy", fastmath=_MATH)
def _activate_silu(v, slopes):
    """SiLU in place, and its derivative."""
    one = np.float32(1.0)
    for i in range(v.shape[0]):
        for f in range(v.shape[1]):
            x = v[i, f]
            sigmoid = value_and_slope(x)[1]
            v[i, f] = x * sigmoid
            slopes[i, f] = sigmoid * (one + x * (one - sigmoid))


@kernel(error_model="numpy", fastmath=_MATH)
def _convolve(u, atoms, knots, taps, table, y):
    """Sums over neighbours of features times filters, both directions of each pair at once."""
    y[:] = np.float32(0.0)
    for p in range(atoms.shape[0]):
        i, j, k = atoms[p, 0], atoms[p, 1], knots[p]
        a, b, c, d = taps[p, 0], taps[p, 1], taps[p, 2], taps[p, 3]
        for f in range(u.shape[1]):
            w = a * table[k, f] + b * table[k + 1, f] + c * table[k + 2, f] + d * table[k + 3, f]
            y[i, f] += w * u[j, f]
            y[j, f] += w * u[i, f]


@kernel(error_model="numpy", fastmath=_MATH)
def _convolve_backward(g, u, atoms, knots, taps, table, by_u, pulls):
    """Gradients of :func:`_convolve` by features, and by distances, which add to ``pulls``."""
    by_u[:] = np.float32(0.0)
    for p in range(atoms.shape[0]):
        i, j, k = atoms[p, 0], atoms[p, 1], knots[p]
        a, b, c, d = taps[p, 0], taps[p, 1], taps[p, 2], taps[p, 3]
        a1, b1, c1, d1 = taps[p, 4], taps[p, 5], taps[p, 6], taps[p, 7]
        pull = np.float32(0.0)
        for f in range(u.shape[1]):
            t0, t1, t2, t3 = table[k, f], table[k + 1, f], table[k + 2, f], table[k + 3, f]
            w = a * t0 + b * t1 + c * t2 + d * t3
            slope = a1 * t0 + b1 * t1 + c1 * t2 + d1 * t3
            pull += slope * (g[i, f] * u[j, f] + g[j, f] * u[i, f])
            by_u[i, f] += w * g[j, f]
            by_u[j, f] += w * g[i, f]
        pulls[p] += pull
