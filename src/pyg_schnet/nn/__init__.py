"""The network, in the order data flows through it."""

from .aggr import ScatterSum
from .conv import SchNetConv
from .ensemble import Ensemble
from .filters import GaussianFilter, RadialFilter
from .harmonic import Vibrations, hessian, vibrations
from .interaction import InteractionBlock
from .offsets import Offsets
from .radial import (
    BesselBasis,
    CosineEnvelope,
    GaussianBasis,
    GaussianSmearing,
    PolynomialEnvelope,
    ShiftedSoftplus,
)
from .readout import AtomwiseReadout, DipoleReadout
from .response import forces_from_energy, strained, stress_from_energy
from .schnet import SchNet

__all__ = [
    "AtomwiseReadout",
    "BesselBasis",
    "CosineEnvelope",
    "DipoleReadout",
    "Ensemble",
    "GaussianBasis",
    "GaussianFilter",
    "GaussianSmearing",
    "InteractionBlock",
    "Offsets",
    "PolynomialEnvelope",
    "RadialFilter",
    "ScatterSum",
    "SchNet",
    "SchNetConv",
    "ShiftedSoftplus",
    "Vibrations",
    "forces_from_energy",
    "hessian",
    "strained",
    "stress_from_energy",
    "vibrations",
]
