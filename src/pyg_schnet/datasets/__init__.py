"""Data sets of the SchNet paper, as PyG ``InMemoryDataset``."""

from .md17 import MD17
from .md17_sample import MD17Sample
from .qm9 import QM9
from .sample import QM9Sample

__all__ = ["MD17", "QM9", "MD17Sample", "QM9Sample"]
