"""The benchmark of scaling measures what it says; how fast anything is, is not tested."""

import argparse
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyg_schnet import SchNet


def arguments(**options) -> argparse.Namespace:
    given = dict(json=None, quick=False, largest=400, seconds=0.0, patience=60.0, memory=2.0)
    return argparse.Namespace(**given | dict(seed=0, python=[], device=None) | options)


@pytest.fixture
def water(load, tmp_path):
    """A box of 96 atoms, so small that pairs have several images within the cutoff."""
    path = tmp_path / "water.npz"
    load("systems").write_water(100, path, cutoff=5.0, seed=1)
    return path


@pytest.mark.parametrize(("wanted", "atoms"), [(100, 96), (316, 300), (1000, 1008), (3162, 3267)])
def test_boxes_of_water(load, tmp_path, wanted: int, atoms: int) -> None:
    path = tmp_path / "water.npz"
    size = load("systems").write_water(wanted, path, cutoff=5.0)
    inputs = load("contenders.common").Inputs.read(str(path))
    assert size == {"atoms": atoms, "edges": inputs.edge_index.size(1)}
    assert inputs.pos.shape == (atoms, 3)
    assert atoms / float(torch.linalg.det(inputs.cell)) == pytest.approx(0.1003, abs=1e-4)
    # Water has O-H bonds of 0.957 A and an H-H distance of 1.514 A; others are farther apart.
    oxygen, *hydrogens = inputs.pos.view(-1, 3, 3).unbind(1)
    for hydrogen in hydrogens:
        bond = (hydrogen - oxygen).norm(dim=1)
        assert_close(bond, torch.full_like(bond, 0.9572), atol=1e-4, rtol=0)
    molecule = inputs.edge_index.div(3, rounding_mode="floor")
    lengths = inputs.vectors(inputs.pos).norm(dim=1)
    between = (molecule[0] != molecule[1]) | (inputs.edge_shift != 0).any(dim=1)
    assert lengths[between].min() > 1.1
    assert lengths.max() < 5.0


def test_boxes_are_reproducible(load, tmp_path) -> None:
    systems, read = load("systems"), load("contenders.common").Inputs.read
    boxes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        systems.write_water(100, tmp_path / f"{name}.npz", 5.0, seed)
        boxes.append(read(str(tmp_path / f"{name}.npz")).pos)
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


@pytest.mark.parametrize("with_edges", [False, True])
def test_contenders_are_the_same_network(load, water, with_edges: bool) -> None:
    """Ours, given PyG's weights, has the energies and forces that PyG has in the benchmark."""
    inputs = load("contenders.common").Inputs.read(str(water))
    network = load("systems").NETWORKS[load("scaling").NETWORK]
    torch.manual_seed(0)
    pyg, ours = load("contenders.pyg").PyG(), load("contenders.ours").Ours()
    pyg.build(network)
    ours.build(network)
    ours.model.load_state_dict(SchNet.from_pyg(pyg.model).state_dict())
    pos = inputs.pos.clone().requires_grad_()
    energy = pyg.energy(pyg._at(inputs, pos))
    forces = -torch.autograd.grad(energy.sum(), pos)[0]
    assert forces.abs().max() > 1e-3
    ours.prepare_inference()
    mine = ours.model.predict(load("contenders.ours").as_data(inputs, with_edges))
    assert_close(mine["energy"].float(), energy.detach(), rtol=1e-4, atol=1e-4)
    assert_close(mine["forces"], forces, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("peer", ["schnetpack", "graph_pes"])
def test_peers_know_the_images(load, water, peer: str) -> None:
    """Atoms moved by a lattice vector, with their edges told so, change nothing."""
    pytest.importorskip(peer)
    inputs = load("contenders.common").Inputs.read(str(water))
    contender = load("worker").make(peer)
    contender.build(load("systems").NETWORKS[load("scaling").NETWORK])
    contender.prepare_inference()
    before = contender.energy(inputs)
    moved = (torch.arange(len(inputs.pos)) % 4 == 0).float().unsqueeze(1) * torch.tensor(
        [1.0, -1, 2]
    )
    inputs.pos = inputs.pos + moved @ inputs.cell[0]
    inputs.edge_shift = (
        inputs.edge_shift - moved[inputs.edge_index[0]] + moved[inputs.edge_index[1]]
    )
    inputs.offsets = inputs.edge_shift @ inputs.cell[0]
    assert_close(contender.energy(inputs), before, rtol=1e-4, atol=1e-4)


def test_memory_that_is_not_enough(load) -> None:
    is_out_of_memory = load("scaling_worker").is_out_of_memory
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.slow
@pytest.mark.parametrize("entrant", ["ours", "ours_edges", "pyg"])
def test_worker(load, tmp_path, water, entrant: str) -> None:
    scaling = load("scaling")
    measured = scaling._work(entrant, water, arguments(), {})
    assert measured["calls"] >= 3
    assert measured["memory_mb"] > 0
    low, high = measured["quartiles_ms"]
    assert 0 < low <= measured["median_ms"] <= high


@pytest.mark.slow
def test_limits(load, tmp_path) -> None:
    scaling, path = load("scaling"), tmp_path / "water.npz"
    load("systems").write_water(1000, path, 5.0)
    if sys.platform.startswith("linux"):
        failure = scaling._work("pyg", path, arguments(memory=0.1), {})["failure"]
        assert failure == "out of memory (limit 0.1 GiB)"
    failure = scaling._work("pyg", path, arguments(patience=1e-3), {})["failure"]
    assert failure == "over 0.001 s"


@pytest.fixture
def pretend(load, monkeypatch):
    """Contenders of which PyG is slow and SchNetPack needs memory, in no time."""
    scaling, calls = load("scaling"), []

    def work(script: str, name: str, given: list[str], pythons: dict):
        entrant = given[0]
        with np.load(given[2]) as arrays:
            atoms = len(arrays["z"])
        calls.append((entrant, atoms))
        about = {"torch": "2", "version": "1", "python": "3", "threads": 1}
        per_atom = {"ours": 2.0, "ours_edges": 1.0}.get(entrant, 20.0)
        measured = dict(times_ms=[per_atom * atoms] * 3, memory_mb=0.1 * per_atom * atoms)
        code, errors = 0, ""
        if atoms > 1000 and name == "pyg":
            code = -signal.SIGALRM
        elif atoms > 100 and name == "schnetpack":
            measured = dict(failure="out of memory")
        elif atoms > 1000 and name == "graph_pes":
            code, errors = -signal.SIGKILL, "Killed"
        output = "progress\n" + json.dumps(measured | dict(about=about))
        return subprocess.CompletedProcess([], code, "" if code else output, errors)

    monkeypatch.setattr(scaling, "call_worker", work)
    monkeypatch.setattr(scaling, "installed", lambda names, pythons: names)
    return scaling, calls


def test_a_run(pretend, tmp_path, capsys) -> None:
    scaling, calls = pretend
    path = tmp_path / "out" / "scaling.json"
    scaling.run(arguments(json=path, largest=4000, python=["schnetpack=/some/where/python"]))
    results = json.loads(path.read_text())
    # Who failed is not tried again.
    assert [atoms for entrant, atoms in calls if entrant == "schnetpack"] == [96, 300]
    assert [atoms for entrant, atoms in calls if entrant == "pyg"] == [96, 300, 1008]
    last = results["systems"][2]["entrants"]
    assert last["pyg"] == {"failure": "over 60 s"}
    assert last["graph_pes"] == {"failure": "out of memory (limit 2 GiB)"}
    assert last["ours"]["median_ms"] == 2016.0
    assert set(results["systems"][3]["entrants"]) == {"ours", "ours_edges"}
    for key in ("median_ms", "memory_mb"):
        assert results["exponents"]["ours"][key] == pytest.approx(1.0)
    assert results["exponents"]["pyg"] == {}
    text = path.with_suffix(".md").read_text()
    assert text in capsys.readouterr().out
    assert "| out of memory (limit 2 GiB) |" in text
    assert "| over 60 s |" in text
    assert text.count("**10.0x**") == 4  # two sizes, in time and memory
    assert "/some/where" not in text + path.read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_quick_writes_nothing(pretend) -> None:
    scaling, calls = pretend
    scaling.run(arguments(quick=True, largest=200))
    assert calls == [("ours", 96), ("pyg", 96)]


def test_too_small(pretend) -> None:
    scaling, _ = pretend
    with pytest.raises(SystemExit, match=r"smallest system has 100 atoms \(got 10\)"):
        scaling.run(arguments(largest=10))


def test_other_failures_are_told(pretend, monkeypatch, tmp_path) -> None:
    scaling, _ = pretend
    broken = subprocess.CompletedProcess([], 1, "", "ImportError: no such thing")
    monkeypatch.setattr(scaling, "call_worker", lambda *given: broken)
    with pytest.raises(SystemExit, match=r"pyg failed:\nImportError"):
        scaling._work("pyg", tmp_path, arguments(), {})
