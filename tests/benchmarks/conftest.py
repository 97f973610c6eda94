"""What the tests of benchmarks share."""

import pytest

from pyg_schnet.training.reporting import Reporter


@pytest.fixture(autouse=True)
def no_picture_of_each_run(monkeypatch) -> None:
    """It takes longer than the few steps of these runs; the tests of training look at it."""
    monkeypatch.setattr(Reporter, "_draw", lambda self: b"")
