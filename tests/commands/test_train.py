"""Runs from the command line: their files, defaults, resuming, tuning, and how they fail."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import ETHANOL, TINY, assert_same_run, history, read

from pyg_schnet import SchNet
from pyg_schnet.commands import plan
from pyg_schnet.data import load_split
from pyg_schnet.datasets import MD17Sample, QM9Sample
from pyg_schnet.training import TrainConfig


def test_files_of_a_run(made):
    names = {path.name for path in made.iterdir()}
    assert names - {"tensorboard"} == {
        *("run.json", "config.json", "split.json", "split_test.json", "test.json"),
        *("history.csv", "learning_curve.png"),
        *("best.safetensors", "last.safetensors", ".lock"),
    }
    run = read(made)
    config = TrainConfig(**run["train"])
    assert (config.label, config.max_steps, config.batch_size, config.lr) == ("energy", 6, 8, 5e-3)
    # The protocol of the paper for energies and forces, since the data have forces.
    assert (config.energy_weight, config.force_weight) == (0.01, 1.0)
    assert run["parts"] == {"train": 24, "validation": 8, "test": 10}
    assert run["versions"]["torch"] == torch.__version__
    model = SchNet.load(made / "best.safetensors")
    assert model.config == run["model"]
    assert (model.units, model.config["hidden_channels"], model.cutoff) == ("kcal/mol", 8, 4.0)


def test_errors_are_those_of_predictions_one_by_one(made):
    """Recomputed without loaders, from the files of the run and NumPy."""
    (train,) = load_split(MD17Sample("ethanol", train=True), made / "split.json")[:1]
    (test,) = load_split(MD17Sample("ethanol", train=False), made / "split_test.json")
    model = SchNet.load(made / "best.safetensors")
    predicted = [model.predict(data) for data in test]
    energy = np.array(
        [one["energy"].item() - data.energy.item() for one, data in zip(predicted, test)]
    )
    force = np.stack([(one["forces"] - data.force).numpy() for one, data in zip(predicted, test)])
    errors = read(made, "test.json")["sets"]["test"]
    assert errors["molecules"] == 10
    assert errors["units"] == {"energy": "kcal/mol", "forces": "kcal/mol/Ang"}
    ours = errors["errors"]["SchNet"]
    assert ours["energy"]["mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-5)
    assert ours["energy"]["rmse"] == pytest.approx((energy**2).mean() ** 0.5, rel=1e-5)
    assert ours["forces"]["mae"] == pytest.approx(np.abs(force).mean(), rel=1e-4)
    assert ours["forces"]["rmse"] == pytest.approx((force**2).mean() ** 0.5, rel=1e-4)
    mean = errors["errors"]["mean predictor"]
    energies = [np.array([data.energy.item() for data in part]) for part in (train, test)]
    forces = [np.stack([data.force.double().numpy() for data in part]) for part in (train, test)]
    for name, (known, asked) in {"energy": energies, "forces": forces}.items():
        assert mean[name]["mae"] == pytest.approx(np.abs(asked - known.mean(axis=0)).mean())
    assert "atom references" not in errors["errors"]  # all have the same atoms


def test_qm9_by_default(call, tmp_path):
    outcome = call(
        *("train", "--data", "qm9-sample", "--num-train", "60", "--num-val", "10"),
        *("--num-test", "20", *TINY, "--max-steps", "2", "--units", "kcal/mol"),
    )
    assert outcome.code == 0, outcome.err
    directory = Path("runs/qm9-sample-U0")
    run = read(directory)
    assert (run["train"]["label"], run["train"]["force_weight"]) == ("U0", 0.0)
    assert (run["model"]["units"], run["model"]["target"]) == ("kcal/mol", "energy")
    errors = read(directory, "test.json")["sets"]["test"]["errors"]
    assert list(errors) == ["mean predictor", "atom references", "SchNet"]
    assert list(errors["SchNet"]) == ["U0"]
    # By NumPy: least squares on numbers of atoms, and the mean.
    train, _, test = load_split(QM9Sample(units="kcal/mol"), directory / "split.json")
    counts, labels = (
        [np.stack([np.bincount(data.z, minlength=10) for data in part]) for part in (train, test)],
        [np.array([data.y[0, 7].item() for data in part]) for part in (train, test)],
    )
    fitted = counts[1] @ np.linalg.lstsq(counts[0], labels[0], rcond=None)[0]
    assert errors["atom references"]["U0"]["mae"] == pytest.approx(
        np.abs(fitted - labels[1]).mean(), rel=1e-4
    )
    assert errors["mean predictor"]["U0"]["rmse"] == pytest.approx(
        ((labels[1] - labels[0].mean()) ** 2).mean() ** 0.5
    )
    assert "60 molecules to train on, 10 to validate, 20 to test" in outcome.out
    assert "U0, kcal/mol" in outcome.out
    table = [line.split() for line in outcome.out.splitlines() if line.startswith("SchNet ")]
    assert float(table[0][1]) == pytest.approx(errors["SchNet"]["U0"]["mae"], rel=1e-4)
    # The next one does not take its place.
    again = call("train", "--config", directory / "run.json")
    assert again.code == 0, again.err
    assert Path("runs/qm9-sample-U0-2/best.safetensors").exists()


def test_other_properties_get_heads_of_their_own(call):
    tiny = ("--data", "qm9-sample", "--num-train", "30", "--num-val", "5", "--num-test", "5", *TINY)
    for label, settings in (("homo", ("mean", False)), ("mu", ("add", True))):
        outcome = call("train", *tiny, "--max-steps", "1", "--label", label)
        assert outcome.code == 0, outcome.err
        model = read(Path(f"runs/qm9-sample-{label}"))["model"]
        assert (model["readout"], model["dipole"]) == settings
        assert model["target"] == label


def test_forces_are_optional(call):
    outcome = call("train", *ETHANOL, *TINY, "--no-forces", "--max-steps", "1")
    assert outcome.code == 0, outcome.err
    directory = Path("runs/md17-sample-ethanol-energy")
    train = read(directory)["train"]
    assert (train["energy_weight"], train["force_weight"]) == (1.0, 0.0)
    # Not trained, but tested.
    assert "forces" in read(directory, "test.json")["sets"]["test"]["errors"]["SchNet"]
    outcome = call("train", "--data", "qm9-sample", *TINY, "--forces")
    assert "error: --forces: 'qm9-sample' has none" in outcome.err


def test_resumed_run_equals_the_uninterrupted_one(call, made, run):
    """Nothing but the directory is needed, from whatever folder."""
    whole = call("train", *ETHANOL, *TINY, "--max-steps", "10", "--directory", "whole")
    assert whole.code == 0, whole.err
    resumed = call("train", "--resume", "--directory", run, "--max-steps", "10", "--device", "cpu")
    assert resumed.code == 0, resumed.err
    # Six steps end with a validation, which the run of ten has not.
    assert [row for row in history(run) if row["step"] not in ("6",)] == [
        row for row in history(Path("whole")) if row["step"] not in ("6",)
    ]
    assert read(run)["train"]["max_steps"] == 10
    last = [SchNet.load(path / "best.safetensors") for path in (run, Path("whole"))]
    assert torch.equal(last[0].embedding.weight, last[1].embedding.weight)
    assert read(run, "test.json") == read(Path("whole"), "test.json")
    assert read(made)["train"]["max_steps"] == 6


def test_a_run_killed_before_its_first_checkpoint(call, made, run):
    for name in ("last.safetensors", "best.safetensors", "history.csv", "test.json"):
        (run / name).unlink()
    outcome = call("train", "--resume", "--directory", run, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert_same_run(run, made)


def test_resume_finds_the_last_run(call, run):
    Path("runs").mkdir()
    run.rename("runs/mine")
    before = history(Path("runs/mine"))
    outcome = call("train", "--resume")
    assert outcome.code == 0, outcome.err
    assert history(Path("runs/mine")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1"], r"leave out --lr 1.0 (it was 0.005)"),
        (["--num-train", "25"], r"leave out --num-train 25 (it was 24)"),
        (["--cutoff", "5"], r"leave out --cutoff 5.0 (it was 4.0)"),
        (["--preset", "paper", "--init", "x"], "leave out --init, --preset"),
        (["--no-forces"], "leave out --forces"),
    ],
)
def test_resume_does_not_change_a_run(call, run, flags, message):
    outcome = call("train", "--resume", "--directory", run, *flags)
    assert outcome.code == 2
    assert f"error: --resume goes on with the same run: {message}" in outcome.err


def test_resume_with_settings_as_they_are(call, run):
    outcome = call("train", "--resume", "--directory", run, "--lr", "0.005", "--cutoff", "4")
    assert outcome.code == 0, outcome.err


def test_resume_on_changed_data(call, run, tmp_path):
    content = read(run)
    content["data"]["data"] = "md17-sample:aspirin"
    (run / "run.json").write_text(json.dumps(content))
    outcome = call("train", "--resume", "--directory", run, "--max-steps", "9")
    assert outcome.code == 2
    assert "is a checkpoint of other training data" in outcome.err


def test_a_damaged_checkpoint_has_an_earlier_one(call):
    arguments = (*ETHANOL, *TINY, "--max-steps", "2", "--keep-last", "2", "--save-seconds", "0")
    assert call("train", *arguments, "--directory", "kept").code == 0
    Path("kept/last.safetensors").write_bytes(b"damaged")
    resume = ("train", "--resume", "--directory", "kept", "--device", "cpu")
    outcome = call(*resume)
    assert outcome.code == 2
    assert "'kept/last-1.safetensors' is the one before: rename it" in outcome.err
    Path("kept/last-1.safetensors").rename("kept/last.safetensors")
    assert call(*resume).code == 0


def test_settings_of_another_run(call, made):
    again = call("train", "--config", made / "run.json", "--directory", "same")
    assert again.code == 0, again.err
    assert_same_run(Path("same"), made)
    other = call("train", "--config", made / "run.json", "--seed", "1", "--directory", "other")
    assert other.code == 0, other.err
    changed = read(Path("other"))
    assert changed["train"] == {**read(made)["train"], "seed": 1}
    assert changed["model"] == read(made)["model"]
    # Settings of training and model alone, with other data.
    third = call(
        *("train", "--config", made / "config.json", "--data", "md17-sample:aspirin"),
        *("--num-train", "10", "--num-val", "5", "--num-test", "5", "--directory", "third"),
    )
    assert third.code == 0, third.err
    assert read(Path("third"))["train"] == read(made)["train"]
    assert read(Path("third"))["parts"]["train"] == 10


def test_damaged_settings(call, made):
    content = read(made)
    content["train"]["learning_rate"] = 1.0
    Path("typo.json").write_text(json.dumps(content))
    outcome = call("train", "--config", "typo.json")
    assert outcome.code == 2
    assert "unknown setting 'learning_rate' in 'typo.json'" in outcome.err
    content["train"] = read(made)["train"] | {"epochs": "many"}
    Path("typo.json").write_text(json.dumps(content))
    assert (
        "'epochs' must be a whole number (got 'many')" in call("train", "--config", "typo.json").err
    )
    Path("typo.json").write_text("{")
    assert "'typo.json' holds no JSON" in call("train", "--config", "typo.json").err
    outcome = call("train", "--config", made / "run.json", "--preset", "paper")
    assert "--preset and --config both give all settings" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (
            ["--data", "qm9-sample", "--epoch", "3"],
            "unknown flag '--epoch': did you mean '--epochs'?",
        ),
        (["--data", "qm9-sampel"], "did you mean 'qm9-sample'?"),
        (["--data", "mine.xyz"], "there is no file 'mine.xyz'"),
        (["--data", "qm9-sample", "--lr", "-1"], "'lr' must be positive (got -1.0)"),
        (["--data", "qm9-sample", "--label", "U1"], "unknown target 'U1'"),
        (["--data", "qm9-sample", "--max-time", "2 weeks"], "'max_time' must be a positive number"),
        (["--data", "qm9-sample", "--envelope", "sine"], "sine"),
        (["--data", "qm9-sample", "--device", "gpu"], "PyTorch has no such device"),
        (["--data", "qm9-sample", "--init", "nothing"], "there is no file or directory 'nothing'"),
        (["--resume"], "there is no run in 'runs/'"),
        (["--resume", "--directory", "."], "'.' is no directory of a run: it has no 'run.json'"),
        (["--data", "qm9-sample", "--threads", "0"], "expected a whole number above zero"),
    ],
)
def test_mistakes_are_one_line(call, arguments, message):
    outcome = call("train", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("runs").exists()


def test_traceback_on_request(call):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        call("train", "--data", "mine.xyz", "--traceback")


def test_runs_are_not_overwritten(call, run):
    before = (run / "last.safetensors").read_bytes()
    outcome = call("train", *ETHANOL, "--directory", run)
    assert outcome.code == 2
    assert "holds a run already: add --resume" in outcome.err
    assert (run / "last.safetensors").read_bytes() == before


def test_not_a_checkpoint(call, run):
    Path("junk.safetensors").write_bytes(b"junk")
    outcome = call("train", *ETHANOL, "--init", "junk.safetensors")
    assert "'junk.safetensors' is damaged or not a safetensors file" in outcome.err
    (run / "run.json").write_text("{}")
    outcome = call("train", "--resume", "--directory", run)
    assert "has no 'data': restore it from a copy" in outcome.err


def test_presets_are_those_of_the_config():
    assert plan.PRESETS[0] == "paper"
    assert ("fast" in plan.PRESETS) == hasattr(TrainConfig, "fast")


def test_the_script_is_installed_under_its_name():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["scripts"] == {"pyg-schnet": "pyg_schnet.__main__:main"}


def test_importing_the_package_stays_light():
    """Neither that nor the commands bring optional or slow packages in."""
    code = (
        # PyG itself imports Triton where that is installed, by way of PyTorch's compiler.
        "import sys, torch_geometric; before = set(sys.modules);"
        "import pyg_schnet, pyg_schnet.train, pyg_schnet.evaluate, pyg_schnet.predict;"
        "names = {'ase', 'rdkit', 'matplotlib', 'triton', 'pyg_schnet.ops.cuda'};"
        "print(sorted(names & (set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.slow
def test_several_processes(call, made):
    """Started by torchrun, two processes make the same run; one of them speaks."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "pyg_schnet.train", *ETHANOL, *TINY, "--max-steps", "6", "--directory", "two"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("24 molecules to train on, 8 to validate, 10 to test") == 1
    assert result.stdout.count("mean predictor") == 1
    same = ("train", "model", "parts", "fingerprint")
    assert [read(Path("two"))[key] for key in same] == [read(made)[key] for key in same]
    errors = [read(path, "test.json")["sets"]["test"]["errors"] for path in (Path("two"), made)]
    for name in ("energy", "forces"):
        one, two = (error["SchNet"][name]["mae"] for error in errors)
        assert one == pytest.approx(two, rel=1e-4)
    # And one process goes on with it.
    resumed = call("train", "--resume", "--directory", "two", "--max-steps", "7", "--device", "cpu")
    assert resumed.code == 0, resumed.err


def test_interrupted_and_resumed(call, tmp_path):
    """A real process, stopped by Ctrl-C, says how to go on, and loses nothing."""
    arguments = ["train", *ETHANOL, *TINY, "--batch-size", "1", "--epochs", "12"]
    command = [sys.executable, "-m", "pyg_schnet", *arguments, "--directory", "it is mine"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with subprocess.Popen(command, **pipes) as process:
        deadline = time.monotonic() + 60
        while not Path("it is mine/history.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    hint = "python -m pyg_schnet.train --resume --directory 'it is mine'"
    assert errors.endswith(f"stopped; to go on:\n  {hint}\n")
    assert len(history(Path("it is mine"))) < 12
    resumed = call("train", "--resume", "--directory", "it is mine", "--device", "cpu")
    assert resumed.code == 0, resumed.err
    assert call(*arguments, "--directory", "whole").code == 0
    assert_same_run(Path("it is mine"), Path("whole"))
