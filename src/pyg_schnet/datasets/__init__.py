"""Data sets of the SchNet paper and your own, as PyG ``InMemoryDataset``."""

from .own import MoleculeDataset
from .qm9 import QM9
from .sample import QM9Sample

__all__ = ["QM9", "MoleculeDataset", "QM9Sample"]
