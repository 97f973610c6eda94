"""The continuous-filter convolution as a fused operator, with filters on radial knots."""

from pyg_schnet.ops.cfconv import cfconv
from pyg_schnet.ops.dispatch import backend, has_kernels, kernels_for
from pyg_schnet.ops.geometry import edge_vectors, forces_from_distances
from pyg_schnet.ops.plan import EdgePlan
from pyg_schnet.ops.softplus import shifted_softplus, value_and_slope
from pyg_schnet.ops.table import Knots, spline_table

__all__ = [
    "EdgePlan",
    "Knots",
    "backend",
    "cfconv",
    "edge_vectors",
    "forces_from_distances",
    "has_kernels",
    "kernels_for",
    "shifted_softplus",
    "spline_table",
    "value_and_slope",
]
