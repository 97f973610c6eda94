"""The benchmark of an epoch measures what it says; how fast anything is, is not tested."""

import json
import statistics

import pytest
from suites import arguments


def test_quick(load, tmp_path) -> None:
    epoch, path = load("epoch"), tmp_path / "e.json"
    words = ["--molecules", "40", "--batch-size", "16", "--rounds", "2"]
    epoch.run(arguments(epoch, *words, "--json", str(path)))
    text = path.with_suffix(".md").read_text()
    assert "on 40 molecules in batches of 16" in text
    assert path.with_suffix(".png").stat().st_size > 1000
    results = json.loads(path.read_text())
    for task in results["tasks"].values():
        assert len(task["rounds"]["steps"]) == 2
        assert task["epoch"] == pytest.approx(sum(task["parts"].values()))
        assert task["molecules_per_second"] == pytest.approx(40 / task["epoch"])
        assert all(time > 0 for times in task["rounds"].values() for time in times)
        # Each part lies within its epoch, and the steps alone are not counted with it.
        for turn, whole in enumerate(task["rounds"]["epoch"]):
            assert sum(task["rounds"][part][turn] for part in epoch.PARTS) < whole
        assert task["added"][0] == pytest.approx(
            statistics.median(
                whole / steps - 1
                for whole, steps in zip(task["rounds"]["epoch"], task["rounds"]["steps"])
            )
        )
