r"""Neighbour search: which atoms, and which of their periodic images, see each other.

Edges are directed as in PyG: ``edge_index[0]`` is the source :math:`j`, ``edge_index[1]`` the
target :math:`i`. They are sorted by target, then by source, then (images of one pair) by distance,
and both directions of every pair are there. ``edge_shift`` says by how many lattice vectors the
source is displaced:

.. math::
    \mathbf{r}_{ij} = \mathbf{r}_j - \mathbf{r}_i + \sum_k s_k \mathbf{a}_k
"""

from .checks import check_atoms
from .distance import edge_lengths, edge_vectors, measured_edges
from .molecules import molecule_edges
from .search import neighbors, periodic_neighbors, radius_graph
from .transform import RadiusGraph, num_molecules
from .verlet import NeighborList

__all__ = [
    "NeighborList",
    "RadiusGraph",
    "check_atoms",
    "edge_lengths",
    "edge_vectors",
    "measured_edges",
    "molecule_edges",
    "neighbors",
    "num_molecules",
    "periodic_neighbors",
    "radius_graph",
]
