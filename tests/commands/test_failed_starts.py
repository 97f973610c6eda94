"""What fails before training begins leaves no run behind, and the corrected command works."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from command_runs import ETHANOL, TINY, read

from pyg_schnet import SchNet, train


@pytest.fixture
def crystals(call) -> str:
    """A file of ten, without stress."""
    random, frames = np.random.default_rng(0), []
    for _ in range(10):
        positions = np.array([[0, 0, 0], [1.5, 1.5, 1.5]]) + random.normal(0, 0.1, (2, 3))
        atoms = Atoms("CO", positions, cell=[3, 3, 3], pbc=True)
        forces = random.normal(0, 1, (2, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=random.normal(), forces=forces)
        frames.append(atoms)
    write("crystals.xyz", frames, format="extxyz")
    return "crystals.xyz"


def test_crystals_need_a_cutoff(call, crystals):
    command = ("train", "--data", crystals, "--epochs", "1", "--device", "cpu")
    for more in ((), ("--cutoff", "5")):  # without an envelope there is none
        outcome = call(*command, *more, "--directory", "r/c")
        assert outcome.code == 2
        assert "'crystals' is periodic, and the model has no cutoff" in outcome.err
        assert outcome.err.endswith("infinitely many neighbours: add --model default --cutoff 5\n")
        assert "Everything is kept" not in outcome.out
        assert not Path("r").exists()
    SchNet.paper(units="eV").save("all.safetensors")
    outcome = call(*command, "--init", "all.safetensors")
    assert "'all.safetensors' has no cutoff" in outcome.err
    assert outcome.err.endswith("begin with a model that has one\n")
    outcome = call(*command, *TINY, "--directory", "r/c")
    assert outcome.code == 0, outcome.err
    outcome = call(*command, "--config", "r/c/run.json", "--envelope", "none")
    assert outcome.err.endswith("add --envelope cosine --cutoff 5\n")


@pytest.mark.parametrize("name", ["force", "stress"])
def test_what_is_to_be_learnt_is_there(call, name):
    weight = (f"--{name}-weight", "1", "--data", "qm9-sample")
    outcome = call("train", *weight, *TINY, "--directory", "r")
    assert outcome.code == 2
    assert outcome.err == f"error: --{name}-weight 1: 'qm9-sample' has no '{name}'\n"
    assert outcome.out == ""
    assert not Path("r").exists()


def test_a_failed_start_does_not_block_its_directory(call):
    """Whatever fails: here the validation set turns out to have no labels."""
    sample = {"z": [1, 1], "R": np.linspace(0, 1, 60).reshape(10, 2, 3), "e_unit": "eV"}
    np.savez("in.npz", **sample, E=[1.0] + [np.nan] * 9)
    command = ("train", "--data", "in.npz", *TINY, "--max-steps", "1")
    seed = ("--split-seed", "2")  # by which the label is in the training set
    Path("mine").mkdir()
    Path("mine/splits.json").write_text("to keep")
    for directory in ("r/c", "mine"):
        outcome = call(*command, *seed, "--directory", directory)
        assert outcome.code == 2
        assert "error: the validation set has no label 'energy'" in outcome.err
    assert not Path("r/c").exists()
    left = {path.name for path in Path("mine").iterdir()}
    assert left - {".lock"} == {"splits.json"}
    np.savez("in.npz", **sample, E=np.arange(10.0))
    outcome = call(*command, "--directory", "mine")
    assert outcome.code == 0, outcome.err
    assert {"run.json", "split.json", "splits.json"} <= {
        path.name for path in Path("mine").iterdir()
    }


def test_a_run_that_has_begun_stays(call, monkeypatch):
    def fit(*arguments, **options):
        directory = arguments[4]
        (directory / "last.safetensors").write_text("a checkpoint")
        raise FloatingPointError("the loss explodes")

    monkeypatch.setattr(train, "fit", fit)
    outcome = call("train", *ETHANOL, *TINY, "--directory", "r")
    assert outcome.err.endswith("error: the loss explodes\n")
    assert read(Path("r"))["parts"]["train"] == 24


def test_a_run_to_resume_stays(call, run, monkeypatch):
    """Also if it was killed before its first checkpoint and fails again."""

    def fit(*arguments, **options):
        raise ValueError("no")

    (run / "last.safetensors").unlink()
    monkeypatch.setattr(train, "fit", fit)
    assert call("train", "--resume", "--directory", run).code == 2
    assert (run / "run.json").exists()
    assert (run / "split.json").exists()
