"""SchNet for PyTorch Geometric: continuous-filter convolutions for molecules and crystals."""

from typing import TYPE_CHECKING, Any

from .graph import NeighborList, RadiusGraph, edge_lengths, edge_vectors, radius_graph
from .interfaces.potential import Potential
from .loader import MoleculeLoader
from .nn import (
    CosineEnvelope,
    Ensemble,
    GaussianFilter,
    GaussianSmearing,
    PolynomialEnvelope,
    SchNet,
    SchNetConv,
    ShiftedSoftplus,
    Vibrations,
    forces_from_energy,
    hessian,
    strained,
    stress_from_energy,
    vibrations,
)

if TYPE_CHECKING:
    from .interfaces.ase import SchNetCalculator as SchNetCalculator

__version__ = "0.1.0"

__all__ = [
    "CosineEnvelope",
    "Ensemble",
    "GaussianFilter",
    "GaussianSmearing",
    "MoleculeLoader",
    "NeighborList",
    "PolynomialEnvelope",
    "Potential",
    "RadiusGraph",
    "SchNet",
    "SchNetConv",
    "ShiftedSoftplus",
    "Vibrations",
    "edge_lengths",
    "edge_vectors",
    "forces_from_energy",
    "hessian",
    "radius_graph",
    "strained",
    "stress_from_energy",
    "vibrations",
]


def __getattr__(name: str) -> Any:
    # Importing the package must not import ASE, which is optional.
    if name == "SchNetCalculator":
        from .interfaces.ase import SchNetCalculator

        return SchNetCalculator
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
