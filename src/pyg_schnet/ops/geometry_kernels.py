"""Loops over edges of :mod:`pyg_schnet.ops.geometry` on the CPU."""

import math

from numba import njit


@njit(cache=True, nogil=True)
def edge_vectors(pos, edge_index, vectors, lengths):
    """Vectors from target to source, and their lengths."""
    for e in range(edge_index.shape[1]):
        j, i = edge_index[0, e], edge_index[1, e]
        squared = 0.0
        for k in range(pos.shape[1]):
            component = pos[j, k] - pos[i, k]
            vectors[e, k] = component
            squared += component * component
        lengths[e] = math.sqrt(squared)


@njit(cache=True, nogil=True)
def forces(slopes, vectors, lengths, source, target, out):
    """Adds up the pull of every edge on both of its atoms."""
    for e in range(source.shape[0]):
        scale = slopes[e] / lengths[e]
        j, i = source[e], target[e]
        for k in range(out.shape[1]):
            pull = scale * vectors[e, k]
            out[i, k] += pull
            out[j, k] -= pull
