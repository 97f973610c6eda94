"""Files with forces and no energies, from the command line."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command_runs import TINY, history, read

from pyg_schnet import SchNet
from pyg_schnet.commands.report import errors_on
from pyg_schnet.data import load_split
from pyg_schnet.datasets import MD17Sample, MoleculeDataset
from pyg_schnet.training.lock import locked

FORCES = ("--energy-weight", "0", "--max-steps", "3", "--batch-size", "8", *TINY)


def write(name: str) -> Path:
    """Thirty frames of ethanol, as NumPy or ASE write them, in eV."""
    path, sample = Path(name), MD17Sample("ethanol", train=True, units="eV")[:30]
    if path.suffix == ".npz":
        np.savez(
            path,
            z=sample[0].z.numpy(),
            R=np.stack([data.pos.numpy() for data in sample]),
            F=np.stack([data.force.numpy() for data in sample]),
            e_unit="eV",
        )
        return path
    pytest.importorskip("ase", reason="needs ASE")
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write as write_frames

    frames = []
    for data in sample:
        atoms = Atoms(data.z.numpy(), data.pos.double().numpy())
        atoms.calc = SinglePointCalculator(atoms, forces=data.force.double().numpy())
        frames.append(atoms)
    write_frames(path, frames)
    return path


@pytest.mark.parametrize("name", ["mine.npz", "mine.xyz"])
def test_forces_of_a_file(call, name):
    """Trained, tested, evaluated: nothing says anything of energies."""
    path = write(name)
    outcome = call("train", "--data", path, *FORCES)
    assert outcome.code == 0, outcome.err
    directory = Path("runs/mine-energy")
    assert read(directory)["train"]["force_weight"] == 1.0
    assert {"val_force_mae", "val_force_rmse"} < set(history(directory)[-1])
    assert not {"val_mae", "val_rmse"} & set(history(directory)[-1])
    assert "it is learnt up to a constant" in outcome.err
    tested = read(directory, "test.json")["sets"]["test"]
    assert tested["units"] == {"forces": "eV/Ang"}
    assert {row: list(one) for row, one in tested["errors"].items()} == {
        "mean predictor": ["forces"],
        "SchNet": ["forces"],
    }
    assert "nan" not in outcome.out + outcome.err + (directory / "test.json").read_text().lower()
    # Recomputed frame by frame.
    model = SchNet.load(directory / "best.safetensors")
    assert model.units == "eV"
    train, _, test = load_split(MoleculeDataset.from_file(path), directory / "split.json")
    errors = np.stack([(model.predict(data)["forces"] - data.force).numpy() for data in test])
    assert tested["errors"]["SchNet"]["forces"]["mae"] == pytest.approx(
        np.abs(errors).mean(), rel=1e-4
    )
    forces = [np.stack([data.force.double().numpy() for data in part]) for part in (train, test)]
    assert tested["errors"]["mean predictor"]["forces"]["mae"] == pytest.approx(
        np.abs(forces[1] - forces[0].mean(axis=0)).mean()
    )
    again = call("evaluate", directory, "--json", "again.json")
    assert again.code == 0, again.err
    assert json.loads(Path("again.json").read_text())["sets"] == {"test": tested}
    other = call("evaluate", directory / "best.safetensors", "--data", path, "--units", "meV")
    assert other.code == 0, other.err
    assert "forces, meV/Ang" in other.out
    assert "energy" not in other.out
    resumed = call("train", "--resume", "--directory", directory, "--max-steps", "5")
    assert resumed.code == 0, resumed.err


def test_what_can_be_done_without_energies(call):
    path = write("mine.npz")
    outcome = call("train", "--data", path, *TINY)
    assert outcome.code == 2
    assert "(--energy-weight 0)" in outcome.err
    assert not Path("runs").exists()
    assert call("train", "--data", path, *FORCES).code == 0
    outcome = call("evaluate", "runs/mine-energy", "--no-forces")
    assert outcome.code == 2
    assert "no number or tensor 'energy'" in outcome.err


def test_energies_of_a_model_that_has_seen_none(call, made):
    """They are known up to a constant only, which no comparison can tell."""
    train = MoleculeDataset.from_file(write("mine.npz"), energy="kcal/mol")
    model, test = SchNet.load(made / "best.safetensors"), MD17Sample("ethanol", train=False)[:5]
    errors = errors_on(model, test, "energy", 8, train=train, forces=True)
    assert {row: list(one) for row, one in errors.rows.items()} == {
        "mean predictor": ["forces"],
        "SchNet": ["forces"],
    }
    with pytest.raises(ValueError, match=r"training set has no 'energy'.*compare forces"):
        errors_on(model, test, "energy", 8, train=train)


def test_a_run_that_is_in_use(call, made, run):
    before = (run / "run.json").read_bytes()
    with locked(run):
        outcome = call("train", "--resume", "--directory", run, "--max-steps", "9")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: '{run}' is in use: process ")
    assert (run / "run.json").read_bytes() == before


def test_progress_on_a_terminal_only(call, made, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert call("evaluate", made, "--part", "all").err == ""
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        from pyg_schnet.__main__ import main

        assert main(["evaluate", str(made), "--part", "train", "--batch-size", "12"]) == 0
    assert "evaluate: 100%" in screen.getvalue()
    assert "24/24" in screen.getvalue()
