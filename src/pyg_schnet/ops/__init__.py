"""The continuous-filter convolution as a fused operator, with filters on radial knots."""

from pyg_schnet.ops.cfconv import cfconv
from pyg_schnet.ops.dispatch import backend, has_kernels
from pyg_schnet.ops.plan import EdgePlan
from pyg_schnet.ops.softplus import shifted_softplus
from pyg_schnet.ops.table import Knots, spline_table

__all__ = ["EdgePlan", "Knots", "backend", "cfconv", "has_kernels", "shifted_softplus", "spline_table"]
