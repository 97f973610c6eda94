"""The examples of dynamics and relaxation run from end to end, on one model, trained once."""

import importlib
import json

import numpy as np
import pytest
from ase.io import read
from example_runs import EXAMPLES, run_example

SHORT = ("--model", "model", "--epochs", "5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the examples of this file run; the first trains the model."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.slow
def test_dynamics(folder):
    result = run_example("ase_md.py", *SHORT, "--steps", "200", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert "Model: model, trained. Test MAE" in result.stdout
    results = folder / "runs" / "ase_md"
    assert (results / "energy_conservation.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((results / "dynamics.json").read_text())
    assert summary["dtype"] == "float32"
    conserved, total = summary["conserved energy"], summary["total energy"]
    assert 0 < conserved["largest_deviation_ev_per_atom"] < 1e-4
    assert conserved["rms_deviation_ev_per_atom"] < total["rms_deviation_ev_per_atom"]
    frames = read(results / "dynamics.xyz", ":")
    assert len(frames) == 11
    assert frames[0].get_chemical_formula() == "C2H6O"


@pytest.mark.slow
def test_relaxation(folder):
    result = run_example("relax.py", *SHORT, "--points", "3", "--fmax", "0.01", cwd=folder)
    assert result.returncode == 0, result.stderr
    results = folder / "runs" / "relax"
    assert (results / "bond_scan.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((results / "relax.json").read_text())
    assert summary["FIRE"]["converged"]
    assert summary["BFGS"]["converged"]
    assert summary["BFGS"]["energy_ev"] == pytest.approx(summary["FIRE"]["energy_ev"], abs=0.05)
    frequencies = summary["frequencies_per_cm"]
    displaced = summary["frequencies_by_displacements_per_cm"]
    assert len(frequencies) == len(displaced) == 21
    assert frequencies[-1] == pytest.approx(displaced[-1], rel=0.01)
    assert 2000 < frequencies[-1] < 5000
    scan = summary["scan"]
    assert min(scan["relaxed_ev"][0], scan["relaxed_ev"][2]) > 0.2
    assert all(soft <= stiff + 1e-3 for soft, stiff in zip(scan["relaxed_ev"], scan["stiff_ev"]))
    assert len(read(results / "relaxed.xyz")) == 9


@pytest.fixture
def ase_md(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("ase_md")


def test_shadow_energy_of_an_oscillator(ase_md):
    """What velocity Verlet conserves: half the step, a quarter of the fluctuations of the energy,
    a sixteenth of those of the corrected one.
    """
    mass, stiffness, deviations = 2.0, 3.0, []
    for step in (0.2, 0.1):
        x, v, rows = 1.0, 0.0, []
        for _ in range(1000):
            rows.append((x, v))
            v -= 0.5 * step * stiffness * x / mass
            x += step * v
            v -= 0.5 * step * stiffness * x / mass
        x, v = (np.array(each).reshape(-1, 1, 1) for each in zip(*rows))
        total = (0.5 * mass * v**2 + 0.5 * stiffness * x**2).flatten()
        nve = {"total": total, "velocities": v, "forces": -stiffness * x}
        shadow = ase_md.shadow_energy(nve, np.array([mass]), step)
        deviations.append((total.std(), shadow.std()))
    (total, shadow), (total_of_half, shadow_of_half) = deviations
    assert total / total_of_half == pytest.approx(4, rel=0.05)
    assert shadow / shadow_of_half == pytest.approx(16, rel=0.1)
    assert shadow < 0.1 * total


def test_wrong_arguments(ase_md, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ase_md.py", "--steps", "3"])
    with pytest.raises(SystemExit):
        ase_md.parse_arguments()
    assert "at least 10 (got 3)" in capsys.readouterr().err
