"""Loops over pairs and edges of atoms on the CPU."""

import math

import numpy as np

from .compilation import kernel


@kernel
def pairs_within(pos: np.ndarray, first: np.ndarray, radius: float) -> np.ndarray:
    """Directed edges between atoms of a molecule, sorted by target and then by source.

    ``first`` holds the first atom of the molecule of each atom.
    """
    num_atoms, dimension = pos.shape
    squared_radius = radius * radius
    start = np.zeros(num_atoms + 1, np.int64)
    for i in range(num_atoms):
        for j in range(first[i], i):
            squared = 0.0
            for k in range(dimension):
                component = pos[j, k] - pos[i, k]
                squared += component * component
            if squared < squared_radius:
                start[i + 1] += 1
                start[j + 1] += 1
    for i in range(num_atoms):
        start[i + 1] += start[i]
    edges = np.empty((2, start[num_atoms]), np.int64)
    # An atom's lower neighbours come first, in order, then its higher ones as their turn comes.
    for i in range(num_atoms):
        for j in range(first[i], i):
            squared = 0.0
            for k in range(dimension):
                component = pos[j, k] - pos[i, k]
                squared += component * component
            if squared < squared_radius:
                edges[0, start[i]], edges[1, start[i]] = j, i
                edges[0, start[j]], edges[1, start[j]] = i, j
                start[i] += 1
                start[j] += 1
    return edges


@kernel
def molecules_within(
    pos: np.ndarray, ptr: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges of :func:`pairs_within`, of small molecules in three dimensions.

    Molecule ``b`` has the atoms ``ptr[b]`` to ``ptr[b + 1]``. Every pair is measured from both of
    its ends, in loops without branches: half the work with branches takes longer.

    Returns:
        Edges ``[2, E]``, their squared lengths ``[E]``, and where those of each molecule begin.
    """
    size = ptr.shape[0] - 1
    candidates = 0
    for b in range(size):
        candidates += (ptr[b + 1] - ptr[b]) * (ptr[b + 1] - ptr[b] - 1)
    source = np.empty(candidates + 1, np.int64)
    target = np.empty(candidates + 1, np.int64)
    squared = np.empty(candidates + 1, pos.dtype)
    start = np.zeros(size + 1, np.int64)
    e = 0
    for b in range(size):
        for i in range(ptr[b], ptr[b + 1]):
            # What is no neighbour is overwritten by the next one.
            for j in range(ptr[b], i):
                source[e], target[e] = j, i
                squared[e], within = _measure(pos, i, j, radius * radius)
                e += within
            for j in range(i + 1, ptr[b + 1]):
                source[e], target[e] = j, i
                squared[e], within = _measure(pos, i, j, radius * radius)
                e += within
        start[b + 1] = e
    edges = np.empty((2, e), np.int64)
    edges[0], edges[1] = source[:e], target[:e]
    return edges, squared[:e], start


@kernel
def _measure(pos: np.ndarray, i: int, j: int, limit: float) -> tuple[float, bool]:
    """Squared distance, and whether it is below a limit: in float64, as in pairs_within."""
    dx, dy, dz = pos[j, 0] - pos[i, 0], pos[j, 1] - pos[i, 1], pos[j, 2] - pos[i, 2]
    dx, dy, dz = dx * dx, dy * dy, dz * dz
    return dx + dy + dz, np.float64(dx) + dy + dz < limit


@kernel
def join_molecules(edge_index: np.ndarray, batch: np.ndarray) -> bool:
    """Whether an edge leads out of the batch, or from one molecule to another."""
    num_atoms = batch.shape[0]
    for e in range(edge_index.shape[1]):
        j, i = edge_index[0, e], edge_index[1, e]
        if j < 0 or j >= num_atoms or i < 0 or i >= num_atoms or batch[j] != batch[i]:
            return True
    return False


@kernel
def edge_vectors(
    pos: np.ndarray, edge_index: np.ndarray, vectors: np.ndarray, lengths: np.ndarray
) -> None:
    """Vectors from target to source, and their lengths."""
    for e in range(edge_index.shape[1]):
        j, i = edge_index[0, e], edge_index[1, e]
        squared = 0.0
        for k in range(pos.shape[1]):
            component = pos[j, k] - pos[i, k]
            vectors[e, k] = component
            squared += component * component
        lengths[e] = math.sqrt(squared)


@kernel
def shifted_edge_vectors(
    pos: np.ndarray,
    edge_index: np.ndarray,
    edge_shift: np.ndarray,
    cell: np.ndarray,
    system: np.ndarray,
    vectors: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """The same to periodic images of the sources."""
    for e in range(edge_index.shape[1]):
        j, i = edge_index[0, e], edge_index[1, e]
        lattice = cell[system[i]]
        squared = 0.0
        for k in range(3):
            # Rounded alike for an edge and its reverse, which have the very same length then.
            offset = edge_shift[e, 0] * lattice[0, k] + edge_shift[e, 1] * lattice[1, k]
            component = (pos[j, k] - pos[i, k]) + (offset + edge_shift[e, 2] * lattice[2, k])
            vectors[e, k] = component
            squared += component * component
        lengths[e] = math.sqrt(squared)


@kernel
def forces(
    slopes: np.ndarray,
    vectors: np.ndarray,
    lengths: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    out: np.ndarray,
) -> None:
    """Adds up the pull of every edge on both of its atoms."""
    for e in range(source.shape[0]):
        scale = slopes[e] / lengths[e]
        j, i = source[e], target[e]
        for k in range(out.shape[1]):
            pull = scale * vectors[e, k]
            out[i, k] += pull
            out[j, k] -= pull
