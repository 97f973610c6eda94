"""Data sets of the SchNet paper and your own, as PyG ``InMemoryDataset``."""

from .iso17 import ISO17
from .md17 import MD17
from .md17_sample import MD17Sample
from .own import MoleculeDataset
from .qm9 import QM9
from .sample import QM9Sample

__all__ = ["ISO17", "MD17", "QM9", "MD17Sample", "MoleculeDataset", "QM9Sample"]
