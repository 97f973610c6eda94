"""Molecules and labels: conversion, units, atom references, statistics, splits."""

from .ase import from_ase, to_ase
from .smiles import from_smiles
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
    "from_ase",
    "from_smiles",
    "load_split",
    "per_atom_statistics",
    "random_split",
    "target_statistics",
    "to_ase",
]
