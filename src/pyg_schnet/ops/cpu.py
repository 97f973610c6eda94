"""The primitives on the CPU."""

from pyg_schnet.ops.reference import (
    collect,
    collect_backward,
    product,
    reduce,
    reduce_backward,
    reduce_double_backward,
)

__all__ = [
    "collect",
    "collect_backward",
    "product",
    "reduce",
    "reduce_backward",
    "reduce_double_backward",
]
