"""The benchmark of loading measures what it says; how fast anything is, is not tested."""

import argparse
import json

import numpy as np
import pytest
import torch
from batches import assert_same


@pytest.fixture
def loader(load):
    return load("loader")


def arguments(**options) -> argparse.Namespace:
    return argparse.Namespace(**dict(data=None, root=None, molecules=200) | options)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where cores are few
@pytest.mark.parametrize("task", ["no edges", "edges within 5 A", "all pairs"])
def test_all_settings_load_the_same(loader, task: str) -> None:
    molecules = loader.read_molecules(arguments())
    cutoff = loader.TASKS[task]
    assert len(molecules) == 200
    expected = None
    for name, (stored, workers) in loader.SETTINGS.items():
        if stored and cutoff is None:
            continue
        dataset = loader.prepare(molecules, name, cutoff)
        assert (dataset[0].get("edge_index") is not None) == (
            cutoff is not None and (stored or workers is not None)
        )
        torch.manual_seed(3)
        made = loader.load(dataset, name, cutoff, 200)
        (batch,) = made
        assert (batch.get("edge_index") is not None) == (cutoff is not None)
        in_order = sorted(batch.to_data_list(), key=lambda data: int(data.idx))
        expected = in_order if expected is None else expected
        assert_same(in_order, expected)


def test_a_file_of_molecules(loader, tmp_path) -> None:
    path = tmp_path / "some.npz"
    pos = np.random.default_rng(0).random((6, 3), dtype=np.float32)
    np.savez(
        path,
        n_atoms=np.array([1, 3, 2], np.uint8),
        Z=np.array([1, 8, 1, 1, 6, 8], np.uint8),
        R=pos,
        U0=np.array([-0.5, -76.0, -113.0]),
    )
    molecules = loader.read_molecules(arguments(data=path))
    water = next(data for data in molecules if data.num_nodes == 3)
    assert water.z.tolist() == [8, 1, 1]
    assert torch.equal(water.pos, torch.from_numpy(pos[1:4]))
    assert water.y.tolist() == [[-76.0]]


def test_rows_of_batches_are_timed(loader) -> None:
    taken = []

    def batches():
        while True:
            taken.append(1)
            yield None

    times = loader.time_batches(batches(), 0.001)
    assert len(taken) == (len(times) + 3) * loader.IN_A_ROW  # three to warm up


def test_summary_and_speedup(loader) -> None:
    values = loader.summary([0.2, 0.1, 0.3], 100)
    assert values["us_per_molecule"] == pytest.approx(2.0)
    assert values["quartiles_us"] == pytest.approx([1.5, 2.5])

    def entry(**medians: float) -> dict:
        return {"tasks": {task: {"median_ms": ms} for task, ms in medians.items()}}

    entrants = {
        "pyg-schnet": entry(plain=1.0, edges=2.0),
        "pyg-schnet, stored edges": entry(edges=0.5),
        "PyG": entry(plain=30.0, edges=90.0),
        "PyG, stored edges": entry(edges=80.0),
    }
    assert loader.speedup(entrants) == {"plain": 30.0, "edges": 40.0}


def test_a_run(loader, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loader, "tune", lambda: None)
    without_workers = {name: how for name, how in loader.SETTINGS.items() if how[1] != 2}
    monkeypatch.setattr(loader, "SETTINGS", without_workers)
    path = tmp_path / "out" / "loader.json"
    loader.run(arguments(json=path, quick=False, seconds=0.0, rounds=1, seed=0))
    results = json.loads(path.read_text())
    assert results["molecules"] == 200
    for system in results["systems"].values():
        assert system["step_ms"] > 0
        assert set(system["entrants"]) == set(without_workers)
        for entry in system["entrants"].values():
            for values in entry["tasks"].values():
                low, high = values["quartiles_us"]
                assert 0 < low <= values["us_per_molecule"] <= high
    text = path.with_suffix(".md").read_text()
    assert "PyG's best / pyg-schnet" in text
    assert str(tmp_path) not in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
