"""Labels: units, atom references, statistics, splits."""

from .splits import load_split, random_split
from .statistics import (
    TargetStatistics,
    atom_references,
    composition,
    per_atom_statistics,
    target_statistics,
)

__all__ = [
    "TargetStatistics",
    "atom_references",
    "composition",
    "load_split",
    "per_atom_statistics",
    "random_split",
    "target_statistics",
]
