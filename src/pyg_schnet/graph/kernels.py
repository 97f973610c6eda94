"""Loops of the periodic neighbour search on the CPU.

A half list has every pair of atoms once, as target i and source j <= i, sorted by both; images of
one pair are sorted by distance and then by shift. An atom's own images come both ways already.
"""

import math

import numpy as np

from ..ops.compilation import kernel


@kernel
def squared_distance(
    pos: np.ndarray, vectors: np.ndarray, b: int, i: int, j: int, s0: int, s1: int, s2: int
) -> float:
    """In the arithmetic of the model: components rounded as positions are."""
    shift0, shift1, shift2 = pos.dtype.type(s0), pos.dtype.type(s1), pos.dtype.type(s2)
    squared = 0.0
    for k in range(3):
        offset = shift0 * vectors[b, 0, k] + shift1 * vectors[b, 1, k] + shift2 * vectors[b, 2, k]
        component = (pos[j, k] - pos[i, k]) + offset
        squared += component * component
    return squared


@kernel
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
    capacity = 32 * num_atoms + 64
    source = np.empty(capacity, np.int64)
    target = np.empty(capacity, np.int64)
    shifts = np.empty((capacity, 3), pos.dtype)
    squares = np.empty(capacity, np.float64)
    near = np.empty(num_atoms, np.int64)
    n = 0
    for i in range(num_atoms):
        b = int(system[i])
        found, most = _near(fractional, reach, b, int(first[i]), i, near)
        while n + most > capacity:
            source = np.concatenate((source, source))
            target = np.concatenate((target, target))
            shifts = np.concatenate((shifts, shifts))
            squares = np.concatenate((squares, squares))
            capacity *= 2
        for m in range(found):
            j = int(near[m])
            end = _images(pos, vectors, fractional, reach, radius, b, i, j, shifts, squares, n)
            source[n:end] = j
            target[n:end] = i
            n = end
    return source[:n], target[:n], shifts[:n]


@kernel
def _near(
    fractional: np.ndarray, reach: np.ndarray, b: int, first: int, i: int, near: np.ndarray
) -> tuple[int, int]:
    """Writes the atoms up to i with images in the box around the ball; how many, and images."""
    x, y, z = fractional[i, 0], fractional[i, 1], fractional[i, 2]
    reach0, reach1, reach2 = reach[b, 0], reach[b, 1], reach[b, 2]
    found = 0
    for j in range(first, i + 1):  # without branches, hence fast
        dx, dy, dz = fractional[j, 0] - x, fractional[j, 1] - y, fractional[j, 2] - z
        near[found] = j
        found += (
            (abs(dx - np.rint(dx)) <= reach0)
            & (abs(dy - np.rint(dy)) <= reach1)
            & (abs(dz - np.rint(dz)) <= reach2)
        )
    images = 1
    for k in range(3):
        images *= int(2.0 * reach[b, k]) + 1
    return found, found * images


@kernel
def _images(
    pos: np.ndarray,
    vectors: np.ndarray,
    fractional: np.ndarray,
    reach: np.ndarray,
    radius: float,
    b: int,
    i: int,
    j: int,
    shifts: np.ndarray,
    squares: np.ndarray,
    begin: int,
) -> int:
    """Writes the images of j within the radius of i, from ``begin`` on; where they end."""
    limit = radius * radius
    dx = fractional[j, 0] - fractional[i, 0]
    dy = fractional[j, 1] - fractional[i, 1]
    dz = fractional[j, 2] - fractional[i, 2]
    n = begin
    for s0 in range(math.ceil(-reach[b, 0] - dx), math.floor(reach[b, 0] - dx) + 1):
        for s1 in range(math.ceil(-reach[b, 1] - dy), math.floor(reach[b, 1] - dy) + 1):
            for s2 in range(math.ceil(-reach[b, 2] - dz), math.floor(reach[b, 2] - dz) + 1):
                squared = squared_distance(pos, vectors, b, i, j, s0, s1, s2)
                if not squared < limit or (i == j and s0 == 0 and s1 == 0 and s2 == 0):
                    continue
                # Shifts come in order: it is enough to look at distances.
                m = n
                while m > begin and squares[m - 1] > squared:
                    squares[m] = squares[m - 1]
                    shifts[m] = shifts[m - 1]
                    m -= 1
                squares[m] = squared
                shifts[m, 0], shifts[m, 1], shifts[m, 2] = s0, s1, s2
                n += 1
    return n


@kernel
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
    n = 0
    for p in range(pairs.shape[0]):
        i, j = int(pairs[p, 0]), int(pairs[p, 1])
        sign = 1
        if i < j:
            i, j, sign = j, i, -1
        s0, s1, s2 = sign * images[p, 0], sign * images[p, 1], sign * images[p, 2]
        squared = squared_distance(pos, vectors, 0, i, j, s0, s1, s2)
        if not squared < limit:
            continue
        for _ in range(2 if i == j else 1):  # an atom's own image, and the opposite one
            source[n], target[n], squares[n] = j, i, squared
            shifts[n, 0], shifts[n, 1], shifts[n, 2] = s0, s1, s2
            s0, s1, s2 = -s0, -s1, -s2
            n += 1

    # Two stable counting sorts, by source and then by target.
    order = _sorted_by(target, _sorted_by(source, np.arange(n), num_atoms), num_atoms)
    for m in range(1, n):  # images of one pair, few: insertion into what is sorted
        e = order[m]
        while m > 0 and _precedes(e, order[m - 1], source, target, squares, shifts):
            order[m] = order[m - 1]
            m -= 1
        order[m] = e
    return source[order], target[order], shifts[order]


@kernel
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


@kernel
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


@kernel
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


@kernel
def within(
    pos: np.ndarray,
    vectors: np.ndarray,
    system: np.ndarray,
    edges: np.ndarray,
    shifts: np.ndarray,
    radius: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The edges ``[2, E]`` that are within the radius, and their shifts ``[E, 3]``."""
    limit = radius * radius
    kept = np.empty(edges.shape[1], np.int64)
    n = 0
    for e in range(edges.shape[1]):
        j, i = edges[0, e], edges[1, e]
        s0, s1, s2 = shifts[e, 0], shifts[e, 1], shifts[e, 2]
        kept[n] = e
        n += squared_distance(pos, vectors, system[i], i, j, s0, s1, s2) < limit
    edges_within = np.empty((2, n), np.int64)
    shifts_within = np.empty((n, 3), shifts.dtype)
    for m in range(n):
        e = kept[m]
        edges_within[0, m], edges_within[1, m] = edges[0, e], edges[1, e]
        for k in range(3):
            shifts_within[m, k] = shifts[e, k]
    return edges_within, shifts_within
