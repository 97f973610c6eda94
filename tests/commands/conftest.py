"""Commands called in this process, and a small run that they made."""

import shutil
from pathlib import Path

import pytest
from command_runs import ETHANOL, TINY, Outcome

from pyg_schnet.__main__ import main


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
