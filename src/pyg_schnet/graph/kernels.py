"""Loops of the periodic neighbour search on the CPU.

A half list has every pair of atoms once, as target i and source j <= i, sorted by both; images of
one pair are sorted by distance and then by shift. An atom's own images come both ways already.
"""

import math

import numpy as np
from numba import njit

from ..ops import compilation  # noqa: F401 - announces compilation


@njit(cache=True, nogil=True, inline="always")
def squared_distance(
    pos: np.ndarray, vectors: np.ndarray, i: int, j: int, s: np.ndarray
) -> float:
    """In the arithmetic of the model: components rounded as positions are."""
    squared = 0.0
    for k in range(3):
        offset = s[0] * vectors[0, k] + s[1] * vectors[1, k] + s[2] * vectors[2, k]
        component = (pos[j, k] - pos[i, k]) + offset
        squared += component * component
    return squared


@njit(cache=True, nogil=True)
def half_images(
    pos: np.ndarray,
    first: np.ndarray,
    system: np.ndarray,
    vectors: np.ndarray,
    fractional: np.ndarray,
    reach: np.ndarray,
    radius: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half list of all images within the radius: sources, targets ``[n]`` and shifts ``[n, 3]``.

    ``first`` holds the first atom of the system of each atom; see ``Lattice`` for the others.
    """
    num_atoms = pos.shape[0]
    limit = radius * radius
    capacity = 32 * num_atoms + 64
    source = np.empty(capacity, np.int64)
    target = np.empty(capacity, np.int64)
    shifts = np.empty((capacity, 3), pos.dtype)
    squares = np.empty(capacity, np.float64)
    s = np.zeros(3, pos.dtype)
    n = 0
    for i in range(num_atoms):
        b = system[i]
        reach0, reach1, reach2 = reach[b, 0], reach[b, 1], reach[b, 2]
        for j in range(first[i], i + 1):
            apart = fractional[j, 0] - fractional[i, 0]
            low0, high0 = math.ceil(-reach0 - apart), math.floor(reach0 - apart)
            if low0 > high0:
                continue
            apart = fractional[j, 1] - fractional[i, 1]
            low1, high1 = math.ceil(-reach1 - apart), math.floor(reach1 - apart)
            if low1 > high1:
                continue
            apart = fractional[j, 2] - fractional[i, 2]
            low2, high2 = math.ceil(-reach2 - apart), math.floor(reach2 - apart)
            begin = n
            for s0 in range(low0, high0 + 1):
                s[0] = s0
                for s1 in range(low1, high1 + 1):
                    s[1] = s1
                    for s2 in range(low2, high2 + 1):
                        s[2] = s2
                        squared = squared_distance(pos, vectors[b], i, j, s)
                        if not squared < limit or (i == j and s0 == 0 and s1 == 0 and s2 == 0):
                            continue
                        if n == capacity:
                            source = np.concatenate((source, source))
                            target = np.concatenate((target, target))
                            shifts = np.concatenate((shifts, shifts))
                            squares = np.concatenate((squares, squares))
                            capacity *= 2
                        # Shifts come in order: it is enough to look at distances.
                        m = n
                        while m > begin and squares[m - 1] > squared:
                            squares[m] = squares[m - 1]
                            shifts[m] = shifts[m - 1]
                            m -= 1
                        squares[m] = squared
                        shifts[m] = s
                        source[n], target[n] = j, i
                        n += 1
    return source[:n], target[:n], shifts[:n]


@njit(cache=True, nogil=True)
def half_list(
    pos: np.ndarray,
    vectors: np.ndarray,
    pairs: np.ndarray,
    images: np.ndarray,
    radius: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half list of one system out of candidates that have every pair once, in any order.

    Candidates are ``pairs`` ``[n, 2]`` and the ``images`` ``[n, 3]`` of their second atoms.
    """
    num_atoms = pos.shape[0]
    limit = radius * radius
    capacity = 0
    for p in range(pairs.shape[0]):
        capacity += 2 if pairs[p, 0] == pairs[p, 1] else 1
    source = np.empty(capacity, np.int64)
    target = np.empty(capacity, np.int64)
    shifts = np.empty((capacity, 3), pos.dtype)
    squares = np.empty(capacity, np.float64)
    s = np.zeros(3, pos.dtype)
    n = 0
    for p in range(pairs.shape[0]):
        i, j = np.int64(pairs[p, 0]), np.int64(pairs[p, 1])
        sign = 1
        if i < j:
            i, j, sign = j, i, -1
        for k in range(3):
            s[k] = sign * images[p, k]
        squared = squared_distance(pos, vectors, i, j, s)
        if not squared < limit:
            continue
        for _ in range(2 if i == j else 1):  # an atom's own image, and the opposite one
            source[n], target[n], squares[n], shifts[n] = j, i, squared, s
            n += 1
            for k in range(3):
                s[k] = -s[k]

    # Two stable counting sorts, by source and then by target.
    order = _sorted_by(target, _sorted_by(source, np.arange(n), num_atoms), num_atoms)
    for m in range(1, n):  # images of one pair, few: insertion into what is sorted
        e = order[m]
        while m > 0 and _precedes(e, order[m - 1], source, target, squares, shifts):
            order[m] = order[m - 1]
            m -= 1
        order[m] = e
    return source[order], target[order], shifts[order]


@njit(cache=True, nogil=True)
def _sorted_by(key: np.ndarray, order: np.ndarray, num_atoms: int) -> np.ndarray:
    place = np.zeros(num_atoms + 1, np.int64)
    for e in order:
        place[key[e] + 1] += 1
    for i in range(num_atoms):
        place[i + 1] += place[i]
    ordered = np.empty_like(order)
    for e in order:
        ordered[place[key[e]]] = e
        place[key[e]] += 1
    return ordered


@njit(cache=True, nogil=True, inline="always")
def _precedes(
    e: int,
    f: int,
    source: np.ndarray,
    target: np.ndarray,
    squares: np.ndarray,
    shifts: np.ndarray,
) -> bool:
    """Whether e comes before f, if they are images of one pair."""
    if source[e] != source[f] or target[e] != target[f]:
        return False
    if squares[e] != squares[f]:
        return squares[e] < squares[f]
    for k in range(3):
        if shifts[e, k] != shifts[f, k]:
            return shifts[e, k] < shifts[f, k]
    return False


@njit(cache=True, nogil=True)
def both_ways(
    source: np.ndarray, target: np.ndarray, shifts: np.ndarray, num_atoms: int
) -> tuple[np.ndarray, np.ndarray]:
    """Edges ``[2, E]`` and shifts ``[E, 3]`` of a half list, with the reverse of every edge."""
    start = np.zeros(num_atoms + 1, np.int64)
    for e in range(source.shape[0]):
        j, i = source[e], target[e]
        start[i + 1] += 1
        if i != j:
            start[j + 1] += 1
    for i in range(num_atoms):
        start[i + 1] += start[i]
    edges = np.empty((2, start[num_atoms]), np.int64)
    edge_shift = np.empty((start[num_atoms], 3), shifts.dtype)
    # An atom's lower neighbours come first, in order, then its higher ones as their turn comes.
    for e in range(source.shape[0]):
        j, i = source[e], target[e]
        n = start[i]
        edges[0, n], edges[1, n] = j, i
        edge_shift[n] = shifts[e]
        start[i] = n + 1
        if i != j:
            n = start[j]
            edges[0, n], edges[1, n] = i, j
            for k in range(3):
                edge_shift[n, k] = 0 - shifts[e, k]  # no negative zeros
            start[j] = n + 1
    return edges, edge_shift
