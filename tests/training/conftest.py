import pytest
from matplotlib.figure import Figure

from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import reporting


@pytest.fixture(scope="session")
def parts():
    """Small molecules to train on, validate and test, so that everything is quick."""
    dataset = QM9Sample(cutoff=4.0)
    return random_split(dataset[:90], [60, 20, 10], seed=0)


@pytest.fixture(autouse=True)
def empty_pictures(monkeypatch):
    """Learning curves would take half a second of every run."""
    monkeypatch.setattr(reporting, "learning_curve", lambda *args: Figure())
