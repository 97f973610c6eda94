"""Data sets of the SchNet paper, as PyG ``InMemoryDataset``."""

from .md17 import MD17
from .qm9 import QM9
from .sample import QM9Sample

__all__ = ["MD17", "QM9", "QM9Sample"]
