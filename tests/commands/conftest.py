"""Commands called in this process, and a small run that they made."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyg_schnet.__main__ import main

# A network and data of which an epoch takes a blink.
TINY = (
    *("--model", "default", "--hidden-channels", "8", "--num-filters", "8"),
    *("--num-interactions", "1", "--num-gaussians", "8", "--cutoff", "4", "--device", "cpu"),
)
ETHANOL = (
    *("--data", "md17-sample:ethanol", "--num-train", "24", "--num-val", "8", "--num-test", "10"),
    *("--batch-size", "8", "--lr", "5e-3"),
)


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # --help
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A run of six steps on ethanol, not to be changed."""
    directory = tmp_path_factory.mktemp("made") / "run"
    arguments = ["train", *ETHANOL, *TINY, "--max-steps", "6", "--directory", str(directory)]
    assert main(arguments) == 0
    return directory


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "run"))
