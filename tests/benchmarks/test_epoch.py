"""The benchmark of an epoch measures what it says; how fast anything is, is not tested."""

import argparse
import importlib
import json
import statistics
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_quick(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    epoch = importlib.import_module("epoch")
    parser = argparse.ArgumentParser()
    epoch.add_arguments(parser)
    args = parser.parse_args(
        [
            "--molecules",
            "40",
            "--batch-size",
            "16",
            "--rounds",
            "2",
            "--json",
            str(tmp_path / "e.json"),
        ]
    )
    epoch.run(args)
    text = (tmp_path / "e.md").read_text()
    assert "on 40 molecules in batches of 16" in text
    assert (tmp_path / "e.png").stat().st_size > 1000
    results = json.loads((tmp_path / "e.json").read_text())
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
