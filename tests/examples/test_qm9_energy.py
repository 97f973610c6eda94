"""The example runs from end to end, as a user runs it."""

import csv
import json
import re
from functools import partial

import pytest
from example_runs import run_example

from pyg_schnet import SchNet

run = partial(run_example, "qm9_energy.py")


@pytest.mark.slow
def test_end_to_end_and_resume(tmp_path):
    result = run("--epochs", "1", "--train-size", "1500", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "runs" / "qm9_U0"
    expected = {"best.safetensors", "last.safetensors", "history.csv", "config.json"}
    expected |= {"split.json", "test.json", "arguments.json", "learning_curve.png", "parity.png"}
    assert {path.name for path in directory.iterdir()} - {"tensorboard", ".lock"} == expected
    for name in ("learning_curve.png", "parity.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG")
    printed = {
        name: [
            float(value)
            for value in re.search(rf"{name} +([\d.]+) +([\d.]+)", result.stdout).groups()
        ]
        for name in ("mean predictor", "linear atom references", "SchNet")
    }
    saved = json.loads((directory / "test.json").read_text())
    assert printed["SchNet"][1] == pytest.approx(saved["test_mae"] * 1000, abs=1e-3)
    assert printed["SchNet"][0] == pytest.approx(saved["test_mae"] * 23.0605, rel=1e-3)
    # One epoch beats the mean; it takes more to beat the linear fit (the figures in README).
    assert (
        max(printed["SchNet"][0], printed["linear atom references"][0])
        < printed["mean predictor"][0]
    )
    assert SchNet.load(directory / "best.safetensors").units == "eV"

    result = run("--epochs", "2", "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    split = (directory / "split.json").read_bytes()
    for changed in (("--seed", "5"), ("--target", "U"), ("--train-size", "300")):
        result = run("--resume", *changed, cwd=tmp_path)
        assert "--resume goes on with the same run: leave out" in result.stderr
    assert (directory / "split.json").read_bytes() == split
    assert "holds a run: add --resume" in run("--directory", str(directory), cwd=tmp_path).stderr
    with open(directory / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_wrong_arguments(tmp_path):
    result = run("--target", "U00", cwd=tmp_path)
    assert "ValueError: unknown target 'U00'" in result.stderr
    result = run("--resume", cwd=tmp_path)
    assert "there is no run in 'runs/' to resume" in result.stderr
    result = run("--train-size", "5000", cwd=tmp_path)
    assert "cannot take 5200 of 2938 molecules" in result.stderr
    result = run("--train-size", "2738", cwd=tmp_path)
    assert "leaves 2738 to train on and 0 to test" in result.stderr
    result = run("--epochs", "0", cwd=tmp_path)
    assert "must be at least 1 (got 0)" in result.stderr
    assert not list(tmp_path.rglob("*.safetensors"))
