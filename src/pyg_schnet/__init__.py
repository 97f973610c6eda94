"""SchNet for PyTorch Geometric: continuous-filter convolutions for molecules and crystals."""

from .graph import NeighborList, RadiusGraph, edge_lengths, edge_vectors, radius_graph
from .loader import MoleculeLoader
from .nn import (
    CosineEnvelope,
    GaussianFilter,
    GaussianSmearing,
    PolynomialEnvelope,
    SchNet,
    SchNetConv,
    ShiftedSoftplus,
    forces_from_energy,
    strained,
    stress_from_energy,
)

__version__ = "0.1.0"

__all__ = [
    "CosineEnvelope",
    "GaussianFilter",
    "GaussianSmearing",
    "MoleculeLoader",
    "NeighborList",
    "PolynomialEnvelope",
    "RadiusGraph",
    "SchNet",
    "SchNetConv",
    "ShiftedSoftplus",
    "edge_lengths",
    "edge_vectors",
    "forces_from_energy",
    "radius_graph",
    "strained",
    "stress_from_energy",
]
