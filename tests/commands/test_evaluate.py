"""Errors from the command line, of the molecules of a run and of others."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_runs import TINY, read

from pyg_schnet import SchNet
from pyg_schnet.commands.report import errors_on
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import evaluate


def test_the_test_set_of_a_run(call, made):
    """The same table and the same numbers as at the end of training."""
    outcome = call("evaluate", made, "--json", "errors.json")
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("errors.json").read_text())
    assert found["sets"] == read(made, "test.json")["sets"]
    assert found["label"] == "energy"
    assert "Errors on 10 molecules (test)\n" in outcome.out
    for row in ("mean predictor", "SchNet"):
        assert f"\n{row} " in outcome.out


def test_parts_of_a_run(call, made):
    outcome = call("evaluate", made, "--part", "all", "--json", "all.json")
    assert outcome.code == 0, outcome.err
    sets = read(Path(), "all.json")["sets"]
    assert {name: one["molecules"] for name, one in sets.items()} == {
        "train": 24,
        "validation": 8,
        "test": 10,
    }
    last = read(made, "config.json")["model"]["units"]
    assert sets["train"]["units"]["energy"] == last
    one = call("evaluate", made, "--part", "validation", "--json", "one.json")
    assert one.code == 0, one.err
    assert read(Path(), "one.json")["sets"] == {"validation": sets["validation"]}
    outcome = call("evaluate", made, "--part", "tets")
    assert "error: unknown part 'tets': did you mean 'test'?" in outcome.err


def test_validation_errors_are_those_of_training(call, made):
    from command_runs import history

    assert call("evaluate", made, "--part", "validation", "--json", "one.json").code == 0
    errors = read(Path(), "one.json")["sets"]["validation"]["errors"]["SchNet"]
    rows = history(made)
    best = [float(row["val_mae"]) for row in rows]
    assert errors["energy"]["mae"] in [pytest.approx(value, rel=1e-6) for value in best]


def test_other_units(call, made):
    assert call("evaluate", made, "--units", "meV", "--json", "mev.json").code == 0
    ours = read(made, "test.json")["sets"]["test"]["errors"]["SchNet"]
    found = read(Path(), "mev.json")["sets"]["test"]
    assert found["units"] == {"energy": "meV", "forces": "meV/Ang"}
    for name in ("energy", "forces"):
        # 1 kcal/mol is 43.364 meV.
        ratio = found["errors"]["SchNet"][name]["mae"] / ours[name]["mae"]
        assert ratio == pytest.approx(43.3641, rel=1e-5)
    outcome = call("evaluate", made, "--units", "Debye")
    assert outcome.code == 2
    assert "unknown unit 'Debye'" in outcome.err


@pytest.mark.parametrize("name", ["", "best.safetensors", "last.safetensors"])
def test_other_molecules_in_other_units(call, made, name):
    """Labels in eV are compared with a model in kcal/mol after conversion."""
    sample = MD17Sample("ethanol", train=False)[:6]
    in_ev = MD17Sample("ethanol", train=False, units="eV")[:6]
    np.savez(
        "new.npz",
        z=sample[0].z.numpy(),
        R=np.stack([data.pos.numpy() for data in in_ev]),
        E=np.array([data.energy.item() for data in in_ev]),
        F=np.stack([data.force.numpy() for data in in_ev]),
        e_unit="eV",
    )
    outcome = call("evaluate", made / name, "--data", "new.npz", "--json", "new.json")
    assert outcome.code == 0, outcome.err
    found = read(Path(), "new.json")["sets"]["new"]
    expected = evaluate(SchNet.load(made / "best.safetensors"), sample, forces=True)
    assert found["molecules"] == 6
    if name != "last.safetensors":
        assert found["errors"]["SchNet"]["energy"]["mae"] == pytest.approx(expected.mae, rel=1e-6)
        assert found["errors"]["SchNet"]["forces"]["rmse"] == pytest.approx(
            expected.forces.rmse, rel=1e-5
        )
    no_forces = call("evaluate", made / name, "--data", "new.npz", "--no-forces")
    assert "forces" not in no_forces.out


def test_published_molecules_that_may_have_been_trained_on(call, made):
    outcome = call("evaluate", made, "--data", "md17-sample:ethanol")
    assert outcome.code == 0
    assert "300 molecules (test)" in outcome.out
    assert outcome.err == ""


@pytest.mark.filterwarnings("always")
def test_all_of_a_set_is_said_to_be_too_good(call, made):
    outcome = call("evaluate", made, "--data", "qm9-sample", "--label", "U0")
    assert outcome.code == 0
    assert "All of 'qm9-sample' is taken: errors are too good" in outcome.err
    assert "warning: the data have atomic numbers that the model was not trained on" in outcome.err


def test_changed_data_are_noticed(call, tmp_path):
    """The split of a file that was exchanged means nothing."""
    sample = MD17Sample("ethanol", train=True)[:30]
    arrays = {
        "z": sample[0].z.numpy(),
        "R": np.stack([data.pos.numpy() for data in sample]),
        "E": np.array([data.energy.item() for data in sample]),
        "e_unit": "kcal/mol",
    }
    np.savez("mine.npz", **arrays)
    assert call("train", "--data", "mine.npz", *TINY, "--max-steps", "1").code == 0
    directory = Path("runs/mine-energy")
    assert call("evaluate", directory).code == 0
    arrays["R"], arrays["E"] = arrays["R"][::-1], arrays["E"][::-1]
    np.savez("mine.npz", **arrays)
    outcome = call("evaluate", directory)
    assert outcome.code == 2
    assert "mine.npz' has changed since the run" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no file or directory 'nothing'"),
        (["{run}/best.safetensors"], "does not say what to evaluate it on: add --data"),
        (["{run}", "--file-units", "eV"], "--data is missing"),
        (["{run}", "--data", "qm9-sampel"], "did you mean 'qm9-sample'?"),
        ([], "the following arguments are required: MODEL"),
        (["{run}", "--data", "qm9-sample", "--part", "all"], "--part all is of the run"),
        (["{run}", "--num-train", "3"], "unknown flag '--num-train'"),
    ],
)
def test_mistakes(call, made, arguments, message):
    outcome = call("evaluate", *[word.format(run=made) for word in arguments])
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert message in outcome.err


def test_a_folder_that_is_no_run(call, made, tmp_path):
    (tmp_path / "model").mkdir()
    outcome = call("evaluate", "model")
    assert "'model' is no directory of a run" in outcome.err
    SchNet.load(made / "best.safetensors").save("model/best.safetensors")
    outcome = call("evaluate", "model")
    assert "'model' has no 'run.json' to say what to evaluate on" in outcome.err


def test_a_model_without_units(made):
    model = SchNet.load(made / "best.safetensors")
    model.units = None
    sample = MD17Sample("ethanol", train=False)[:3]
    assert errors_on(model, sample, "energy", 8).unit_of("forces") is None
    with pytest.raises(ValueError, match="does not know its unit"):
        errors_on(model, sample, "energy", 8, units="eV")
