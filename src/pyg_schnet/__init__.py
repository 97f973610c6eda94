"""SchNet for PyTorch Geometric: continuous-filter convolutions for molecules."""

from .graph import RadiusGraph, edge_lengths, radius_graph
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
    "PolynomialEnvelope",
    "RadiusGraph",
    "SchNet",
    "SchNetConv",
    "ShiftedSoftplus",
    "edge_lengths",
    "forces_from_energy",
    "radius_graph",
    "strained",
    "stress_from_energy",
]
