"""What the tests of benchmarks share."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
from suites import FOLDER

from pyg_schnet.training.reporting import Reporter


@pytest.fixture
def load(monkeypatch) -> Callable[[str], ModuleType]:
    """Imports a module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture(autouse=True)
def no_picture_of_each_run(monkeypatch) -> None:
    """It takes longer than the few steps of these runs; the tests of training look at it."""
    monkeypatch.setattr(Reporter, "_draw", lambda self: b"")
