"""The benchmark measures what it says; how fast anything is, is not tested."""

import json
import subprocess
import sys

import pytest
import torch
from suites import FOLDER


def test_buckminsterfullerene(load):
    pos = load("systems")._buckminsterfullerene()
    assert pos.shape == (60, 3)
    distances = torch.cdist(pos, pos)
    bonds = (distances - 1.44).abs() < 1e-3
    assert (bonds.sum(dim=1) == 3).all()
    assert torch.allclose(pos.norm(dim=1), torch.full((60,), 3.57), atol=0.01)  # known radius


def test_cluster_has_its_atoms_apart(load):
    systems = load("systems")
    z, pos, batch = systems._atoms("cluster", torch.Generator().manual_seed(0))
    assert len(z) == len(pos) == len(batch) == 111 * 18
    distances = torch.cdist(pos, pos).fill_diagonal_(9.0)
    assert distances.min() > 0.7


def test_all_systems_are_written(load, tmp_path):
    systems = load("systems")
    for name in systems.SYSTEMS:
        size = systems.write_system(name, tmp_path / "system.npz")
        inputs = load("contenders.common").Inputs.read(str(tmp_path / "system.npz"))
        assert size == {
            "atoms": len(inputs.z),
            "molecules": inputs.size,
            "edges": inputs.edge_index.size(1),
        }


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["ours", "ours_exact", "pyg"])
def test_worker(load, tmp_path, contender):
    systems = load("systems")
    path = tmp_path / "system.npz"
    systems.write_system("paper, one molecule of 18 atoms", path)
    network = json.dumps(systems.NETWORKS["paper"])
    command = [sys.executable, str(FOLDER / "worker.py"), contender, network, str(path), "0.01"]
    done = subprocess.run([*command, "--tuned"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert list(measured["tasks"]) == list(load("speed").TASKS)
    for task, values in measured["tasks"].items():
        assert len(values["times_ms"]) >= 5
        assert 0 < min(values["times_ms"]) < values["first_ms"] + 1e4
        assert values["memory_mb"] > 0 or task == "forward"
    # The dense layers of training, at least: 18 atoms, three blocks of 64 features, 4 layers each.
    gflop = measured["tasks"]["energy step"]["product_gflop"]
    assert contender == "pyg" or gflop > 3 * 2e-9 * 18 * 3 * 4 * 64 * 64


def test_contenders_are_the_same_network(load, tmp_path):
    """PyG's SchNet and ours, given PyG's weights, compute the same energies in the race."""
    from pyg_schnet import SchNet

    systems = load("systems")
    systems.write_system("128/3/20/5 A, batch 100", tmp_path / "system.npz")
    inputs = load("contenders.common").Inputs.read(str(tmp_path / "system.npz"))
    network = systems.NETWORKS["128/3/20/5"]
    pyg = load("contenders.pyg").PyG()
    pyg.build(network)
    ours = load("contenders.ours").Ours()
    ours.build(network)
    ours.model.load_state_dict(SchNet.from_pyg(pyg.model).state_dict())
    assert torch.allclose(ours.energy(inputs), pyg.energy(inputs), rtol=1e-4, atol=1e-4)


def test_speedup_is_over_the_fastest_tuned_peer(load, tmp_path):
    speed, report = load("speed"), load("report")
    tables = load("speed_report")
    about = {"version": "1", "torch": "2", "python": "3", "threads": 2}

    def entry(milliseconds: float) -> dict:
        times = {"times_ms": [milliseconds] * 3, "rounds_ms": [milliseconds]}
        times |= {"memory_mb": 5.0, "first_ms": 9.0, "product_gflop": 0.04}
        return {"about": about, "tasks": {task: dict(times) for task in speed.TASKS}}

    entrants = {
        "ours": entry(3.0),
        "ours, tuned": entry(2.0),
        "pyg": entry(7.0),
        "pyg, tuned": entry(10.0),
        "schnetpack, tuned": entry(8.0),
    }
    system = {"size": {"atoms": 3}, "entrants": entrants}
    environment = {"cores": 2, "sgemm_gflops": 100}
    results = {"environment": environment, "command": "me", "seed": 0, "systems": {"one": system}}
    speed._summarise(results)
    assert system["speedup"] == {task: {"median": 4.0, "rounds": [4.0]} for task in speed.TASKS}
    path = tmp_path / "out" / "speed.json"
    report.save_report(results, path, tables.as_markdown, tables.draw)
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == results
    assert "**4.0x** [4.0, 4.0]" in (tmp_path / "out" / "speed.md").read_text()
    assert "40 MFLOP, 20%" in (tmp_path / "out" / "speed.md").read_text()
    assert (tmp_path / "out" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_list_and_help():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), "list"], capture_output=True, text=True
    )
    assert done.stdout.startswith("speed ")
