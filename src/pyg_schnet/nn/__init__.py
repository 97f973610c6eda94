"""The network, in the order data flows through it."""

from .aggr import ScatterSum
from .conv import SchNetConv
from .filters import GaussianFilter
from .interaction import InteractionBlock
from .offsets import Offsets
from .radial import CosineEnvelope, GaussianSmearing, PolynomialEnvelope, ShiftedSoftplus
from .readout import AtomwiseReadout, DipoleReadout
from .response import forces_from_energy, strained, stress_from_energy
from .schnet import SchNet

__all__ = [
    "AtomwiseReadout",
    "CosineEnvelope",
    "DipoleReadout",
    "GaussianFilter",
    "GaussianSmearing",
    "InteractionBlock",
    "Offsets",
    "PolynomialEnvelope",
    "ScatterSum",
    "SchNet",
    "SchNetConv",
    "ShiftedSoftplus",
    "forces_from_energy",
    "strained",
    "stress_from_energy",
]
