"""Models that are trained further, on other molecules."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import ETHANOL, TINY, assert_same_run, read

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training.checkpoint import load_averaged

NO_STEP = ("--lr", "1e-30", "--ema-decay", "0")


@pytest.mark.parametrize("name", ["", "best.safetensors", "last.safetensors"])
def test_fine_tuning_begins_with_the_model(call, made, name):
    outcome = call(
        *("train", *ETHANOL, *NO_STEP, "--seed", "3", "--max-steps", "1"),
        *("--init", made / name, "--directory", "tuned"),
    )
    assert outcome.code == 0, outcome.err
    tuned = SchNet.load("tuned/best.safetensors")
    if name == "last.safetensors":
        start = load_averaged(made / name)
    else:
        start = SchNet.load(made / "best.safetensors")
    assert (tuned.closest <= start.closest).all()  # it has seen more
    for key, value in start.state_dict().items():
        assert key == "closest" or torch.equal(tuned.state_dict()[key], value), key
    run = read(Path("tuned"))
    assert run["train"]["offsets"] == "keep"
    assert Path(run["init"]).is_absolute()


@pytest.fixture
def far_away(tmp_path):
    """Ethanol as another method sees it: other total energies."""
    path = tmp_path / "far.npz"
    sample = MD17Sample("ethanol", train=True)[:40]
    np.savez(
        path,
        z=sample[0].z.numpy(),
        R=np.stack([data.pos.numpy() for data in sample]),
        E=np.array([data.energy.item() for data in sample]) / 2 + 7,
        F=np.stack([data.force.numpy() for data in sample]),
        e_unit="kcal/mol",
    )
    return path


@pytest.mark.filterwarnings("always")
def test_fine_tuning_refits_offsets_if_asked(call, made, far_away):
    tune = ("train", "--data", far_away, "--init", made, *NO_STEP, "--max-steps", "1")
    kept = call(*tune, "--directory", "kept")
    assert kept.code == 0, kept.err
    assert "warning: the labels are" in kept.err
    assert "add --offsets fit" in kept.err
    fitted = call(*tune, "--offsets", "fit", "--directory", "fitted")
    assert fitted.code == 0, fitted.err
    assert "warning" not in fitted.err
    fresh = call(
        "train", "--data", far_away, *TINY, *NO_STEP, "--max-steps", "1", "--directory", "new"
    )
    assert fresh.code == 0, fresh.err
    offsets = {
        name: SchNet.load(path / "best.safetensors").readout.offsets.state_dict()
        for name, path in {"made": made, **{n: Path(n) for n in ("kept", "fitted", "new")}}.items()
    }
    for key in ("mean", "std", "atomref"):
        assert torch.equal(offsets["kept"][key], offsets["made"][key])
        assert torch.equal(offsets["fitted"][key], offsets["new"][key])
    assert not torch.allclose(offsets["fitted"]["atomref"], offsets["made"]["atomref"])
    errors = {n: read(Path(n), "test.json")["sets"]["test"]["errors"] for n in ("kept", "fitted")}
    assert errors["kept"]["SchNet"]["energy"]["mae"] > 1000
    assert errors["fitted"]["SchNet"]["energy"]["mae"] < 100


def test_fine_tuning_refuses_contradictions(call, made):
    tune = ("train", "--init", made, "--max-steps", "1")
    for flags, message in (
        (["--cutoff", "5"], "gives the architecture: leave out --cutoff 5.0 (it has 4.0)"),
        (["--model", "paper"], "gives the architecture: leave out --model paper"),
        (["--units", "eV"], "is in kcal/mol: leave out --units eV"),
    ):
        outcome = call(*tune, *ETHANOL, *flags)
        assert outcome.code == 2
        assert message in outcome.err
    outcome = call(*tune, *ETHANOL, "--cutoff", "4", "--hidden-channels", "8", "--directory", "ok")
    assert outcome.code == 0, outcome.err
    # Labels are converted to the unit of the model; nitrogen and fluorine are new to it.
    outcome = call(*tune, "--data", "qm9-sample")
    assert "no atom references for the atomic numbers [7, 9]" in outcome.err
    outcome = call(*tune, "--data", "qm9-sample", "--label", "homo")
    assert "predicts 'energy', but the label is 'homo'" in outcome.err


def test_a_tuned_run_killed_early_begins_with_the_model_again(call, made):
    arguments = ("train", *ETHANOL, "--seed", "3", "--max-steps", "3", "--init", made)
    assert call(*arguments, "--directory", "a").code == 0
    assert call(*arguments, "--directory", "b").code == 0
    for name in ("last.safetensors", "best.safetensors", "history.csv", "test.json"):
        Path("b", name).unlink()
    outcome = call("train", "--resume", "--directory", "b")
    assert outcome.code == 0, outcome.err
    assert_same_run(Path("a"), Path("b"))
