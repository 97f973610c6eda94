"""Loops over edges that prepare an :class:`EdgePlan` on the CPU."""

import numpy as np

from .compilation import kernel

SORTED, UNSORTED, OUT_OF_RANGE, NO_DISTANCE = range(4)


@kernel
def sort_edges(
    edge_index: np.ndarray, lengths: np.ndarray, num_src: int, num_dst: int
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row pointers, sources, destinations and the permutation that sorts the edges."""
    num_edges = edge_index.shape[1]
    rowptr = np.zeros(num_dst + 1, np.int32)
    source = np.empty(num_edges, np.int32)
    target = np.empty(num_edges, np.int32)
    permutation = np.empty(0, np.int64)
    in_order = True
    for e in range(num_edges):
        j, i, d = edge_index[0, e], edge_index[1, e], lengths[e]
        if i < 0 or i >= num_dst or j < 0 or j >= num_src:
            return OUT_OF_RANGE, rowptr, source, target, permutation
        if not 0.0 <= d < np.inf:
            return NO_DISTANCE, rowptr, source, target, permutation
        source[e] = j
        target[e] = i
        rowptr[i + 1] += 1
        if e > 0:
            before_j, before_i = edge_index[0, e - 1], edge_index[1, e - 1]
            if i < before_i or (
                i == before_i and (j < before_j or (j == before_j and d < lengths[e - 1]))
            ):
                in_order = False
    for i in range(num_dst):
        rowptr[i + 1] += rowptr[i]
    if in_order:
        return SORTED, rowptr, source, target, permutation

    # Two stable counting sorts, by source and then by destination.
    by_source = np.empty(num_edges, np.int64)
    place = np.zeros(num_src + 1, np.int64)
    for e in range(num_edges):
        place[edge_index[0, e] + 1] += 1
    for j in range(num_src):
        place[j + 1] += place[j]
    for e in range(num_edges):
        j = edge_index[0, e]
        by_source[place[j]] = e
        place[j] += 1
    permutation = np.empty(num_edges, np.int64)
    place = rowptr.astype(np.int64)
    for n in range(num_edges):
        e = by_source[n]
        i = edge_index[1, e]
        permutation[place[i]] = e
        place[i] += 1
    # Periodic images of one pair, few, by distance: insertion into what is sorted.
    for n in range(1, num_edges):
        e = permutation[n]
        m = n
        while m > 0:
            p = permutation[m - 1]
            if (
                edge_index[1, p] != edge_index[1, e]
                or edge_index[0, p] != edge_index[0, e]
                or lengths[p] <= lengths[e]
            ):
                break
            permutation[m] = p
            m -= 1
        permutation[m] = e
    for n in range(num_edges):
        source[n] = edge_index[0, permutation[n]]
        target[n] = edge_index[1, permutation[n]]
    return UNSORTED, rowptr, source, target, permutation


@kernel
def match_reverse(
    rowptr: np.ndarray, source: np.ndarray, lengths: np.ndarray, num_blocks: int
) -> tuple[bool, np.ndarray, np.ndarray]:
    """Whether every edge has a reverse of its length, that edge, and cuts for threads."""
    num_atoms = rowptr.shape[0] - 1
    num_edges = source.shape[0]
    reverse = np.empty(num_edges, np.int32)
    blocks = np.full(num_blocks + 1, num_atoms, np.int32)
    blocks[0] = 0
    # A large molecule is cut after all: pairs across the cut are visited from both ends.
    longest = max(4096, num_edges // 16)
    # Edges out of an atom are met in the order in which its edges in are stored.
    cursor = rowptr.copy()
    block = 1
    farthest = -1
    for i in range(num_atoms):
        if i > 0 and block < num_blocks:
            between = farthest < i and rowptr[i] * num_blocks >= block * num_edges
            if between or rowptr[i] - rowptr[blocks[block - 1]] > longest:
                blocks[block] = i
                block += 1
        for e in range(rowptr[i], rowptr[i + 1]):
            j = source[e]
            partner = cursor[j]
            if partner >= rowptr[j + 1] or source[partner] != i or lengths[partner] != lengths[e]:
                return False, reverse, blocks
            cursor[j] = partner + 1
            reverse[e] = partner
            farthest = max(farthest, j)
    return True, reverse, blocks


@kernel
def sort_by_knot(
    scaled: np.ndarray, source: np.ndarray, target: np.ndarray, intervals: int, pairs_once: bool
) -> np.ndarray:
    """Edges by rising knot, each pair of atoms if ``pairs_once``, from the lower atom."""
    num_edges = scaled.shape[0]
    count = np.zeros(intervals + 2, np.int32)
    knot = np.empty(num_edges, np.int32)
    for e in range(num_edges):
        t = scaled[e]
        k = 0
        if t > 0:
            k = int(min(t, intervals - 1))
        knot[e] = k
        if not pairs_once or source[e] <= target[e]:
            count[k + 1] += 1
    for k in range(intervals + 1):
        count[k + 1] += count[k]
    order = np.empty(count[intervals + 1], np.int32)
    for e in range(num_edges):
        if not pairs_once or source[e] <= target[e]:
            k = knot[e]
            order[count[k]] = e
            count[k] += 1
    return order
