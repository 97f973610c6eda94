"""The continuous-filter convolution as a fused operator, with filters on radial knots."""

from .cfconv import cfconv
from .dispatch import backend, has_kernels, kernels_for, transforming
from .filter_table import Samples, filter_table
from .memory import keep_freed_memory
from .plan import EdgePlan
from .softplus import shifted_softplus
from .table import Knots, spline_table

__all__ = [
    "EdgePlan",
    "Knots",
    "Samples",
    "backend",
    "cfconv",
    "filter_table",
    "has_kernels",
    "keep_freed_memory",
    "kernels_for",
    "shifted_softplus",
    "spline_table",
    "transforming",
]
