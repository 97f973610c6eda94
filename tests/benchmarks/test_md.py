"""The benchmark of dynamics runs one network everywhere; how fast anything is, is not tested."""

import json

import numpy as np
import pytest
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from suites import arguments

from pyg_schnet import SchNetCalculator


@pytest.mark.slow
def test_quick(load, tmp_path, capsys):
    md = load("md")
    path = tmp_path / "md.json"
    md.run(arguments(md, "--quick", "--steps", "20", "--train-steps", "5", "--json", str(path)))
    text = path.with_suffix(".md").read_text()
    assert "## ethanol, 9 atoms" in text
    assert "bare loop + pyg-schnet" in text
    assert path.with_suffix(".png").stat().st_size > 1000
    results = json.loads(path.read_text())
    entry = results["molecules"]["ethanol"]
    for row in entry["contenders"].values():
        assert row["steps_per_second"] == pytest.approx(1e3 / row["step_ms"])
        assert abs(row["energy_difference_ev"]) < 1e-3
        assert row["largest_force_difference_ev_per_ang"] < 1e-3
    assert entry["overhead_ms"] == pytest.approx(entry["calculator_ms"] - entry["predict_ms"])


def test_loop_goes_where_ase_goes(load, tmp_path):
    """The bare loop is velocity Verlet: its forces lead to the positions of ASE."""
    md, worker = load("md"), load("md_worker")
    md.write_system("ethanol", tmp_path / "e.npz", arguments(md, "--train-steps", "3"))
    with np.load(tmp_path / "e.npz") as file:
        system = dict(file)
    before = system["pos"].copy()
    atoms = worker.make_atoms(system)
    # Hardly trained, it leaves the domain of its training at once.
    atoms.calc = SchNetCalculator(worker.make_ours(system), domain="ignore")
    run, start, _ = worker.ours_loop(system)
    assert np.allclose(start["forces_ev_per_ang"], atoms.get_forces(), atol=1e-4)
    run(20)
    VelocityVerlet(atoms, worker.TIMESTEP * fs).run(20)
    assert np.abs(atoms.positions - before).max() > 0.05
    assert np.allclose(system["pos"], atoms.positions, atol=1e-5)


def test_same_weights_in_schnetpack(load, tmp_path):
    pytest.importorskip(
        "schnetpack", reason="needs schnetpack, which has an environment of its own"
    )
    md, worker = load("md"), load("md_worker")
    md.write_system("ethanol", tmp_path / "e.npz", arguments(md, "--train-steps", "3"))
    with np.load(tmp_path / "e.npz") as file:
        system = dict(file)
    start = [prepare(system)[1] for prepare in (worker.ours_ase, worker.schnetpack_ase)]
    assert start[1]["energy_ev"] == pytest.approx(start[0]["energy_ev"], abs=1e-3)
    assert np.allclose(start[0]["forces_ev_per_ang"], start[1]["forces_ev_per_ang"], atol=1e-3)
