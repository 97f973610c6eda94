"""The example of forces runs from end to end, is resumed, and refuses what it cannot do."""

import json
import re
from functools import partial

import pytest
from example_runs import run_example

from pyg_schnet import SchNet

run = partial(run_example, "md17_forces.py")


@pytest.mark.slow
def test_end_to_end_and_resume(tmp_path):
    result = run("--epochs", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "runs" / "md17_ethanol"
    for name in ("learning_curve.png", "parity_energy.png", "parity_forces.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG")
    errors = json.loads((directory / "test.json").read_text())
    assert errors["units"] == "kcal/mol"
    # 3.113 from all 1,000 frames, by NumPy; 50 of them are for validation.
    assert errors["mean_predictor"]["energy_mae"] == pytest.approx(3.113, abs=5e-3)
    assert errors["schnet"]["force_mae"] < 0.5 * errors["mean_predictor"]["force_mae"]
    printed = re.search(r"SchNet +([\d.]+) +([\d.]+)\n", result.stdout)
    assert float(printed[2]) == pytest.approx(errors["schnet"]["force_mae"], abs=1e-3)
    assert SchNet.load(directory / "best.safetensors").units == "kcal/mol"

    result = run(cwd=tmp_path)
    assert "holds a run: add --resume" in result.stderr
    result = run("--resume", "--epochs", "3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^ +(\d+) ", result.stderr, re.MULTILINE) == ["3"]  # epochs validated


def test_wrong_arguments(tmp_path):
    assert "no run in" in run("--resume", cwd=tmp_path).stderr
    assert "at least 1 (got 0)" in run("--epochs", "0", cwd=tmp_path).stderr
    result = run("--molecule", "benzene", cwd=tmp_path)
    assert "ethanol" in result.stderr
    assert result.returncode != 0
