import pytest

from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9Sample


@pytest.fixture(scope="session")
def parts():
    """Small molecules to train on, validate and test, so that everything is quick."""
    dataset = QM9Sample(cutoff=4.0)
    return random_split(dataset[:90], [60, 20, 10], seed=0)
