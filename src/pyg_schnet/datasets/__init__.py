"""Data sets of the SchNet paper, as PyG ``InMemoryDataset``."""

from .qm9 import QM9
from .sample import QM9Sample

__all__ = ["QM9", "QM9Sample"]
