"""The benchmark of MD17 reads the files, keeps rows apart, and reports what it measured."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_schnet.datasets import MD17Sample

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def md17(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("md17")


def arguments(md17, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    md17.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder with sixty frames in the layout of the original MD17."""
    frames = list(MD17Sample("ethanol")[:60])
    np.savez(
        tmp_path / "md17_ethanol.npz",
        z=frames[0].z.numpy(),
        R=torch.stack([frame.pos for frame in frames]).numpy(),
        E=torch.cat([frame.energy for frame in frames]).numpy()[:, None],
        F=torch.stack([frame.force for frame in frames]).numpy(),
        frame=np.arange(0, 600, 10),
    )
    return tmp_path


def test_quick(md17, tmp_path) -> None:
    path = tmp_path / "md17.json"
    md17.run(arguments(md17, "--quick", "--json", str(path)))
    rows = json.loads(path.read_text())["rows"]
    assert [row["preset"] for row in rows.values()] == ["paper", "fast"]
    for row in rows.values():
        assert row["step"] == 40
        assert row["parameters"] == 116_289
        assert row["sizes"] == {"train": 100, "val": 50, "test": 1150}
        assert row["test"]["force_mae"] < row["mean_predictor"]["force_mae"]
        assert row["config"]["force_weight"] > 0
        assert row["commit"]
    text = path.with_suffix(".md").read_text()
    assert "| ethanol, SchNet, `paper` | | | | | | not run | not run | |" in text
    assert "| *aspirin, SchNet, published* | 1,000 | | | | | *0.37* | *1.35* | |" in text
    assert "**revised ethanol**, mean predictor" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_rows_from_a_file(md17, files, monkeypatch, capsys) -> None:
    """Every row is added to those before; one that is done is not run again."""
    monkeypatch.setattr(md17.run_row, "__defaults__", (10,))  # frames to validate
    path = files / "out.json"
    words = ["--root", str(files), "--molecules", "ethanol", "--num-train", "20", "--preset"]
    kept = ["--directory", str(files / "runs"), "--json", str(path)]
    md17.run(arguments(md17, *words, "paper", "--budget", "2steps", *kept))
    first = json.loads(path.read_text())["rows"]
    md17.run(arguments(md17, *words, "paper", "--budget", "3steps", *kept))
    md17.run(arguments(md17, *words, "paper", "--budget", "2steps", *kept))
    rows = json.loads(path.read_text())["rows"]
    assert [row["step"] for row in rows.values()] == [2, 3]
    name = "ethanol, paper, N = 20, 2steps, seed 0"
    assert rows[name] == first[name]
    assert rows[name]["frames"] == {"number": 60, "first": 0, "last": 590}
    assert str(files) not in path.read_text()
    text = path.with_suffix(".md").read_text()
    assert (
        "60 of the 555,092 frames of the published trajectory (a subset, in order of time: " in text
    )
    assert "numbers 0 to 590); 20 to train on, 10 to validate, 30 to test with" in text
    capsys.readouterr()
    md17.run(arguments(md17, "--json", str(path)))  # tables only
    assert capsys.readouterr().out.startswith(text)


def test_mean_predictor(md17) -> None:
    dataset = MD17Sample("ethanol")
    parts = md17.Parts(dataset[:100], dataset[100:110], dataset[200:250])
    result = md17.mean_predictor(parts)
    energies = np.array([data.energy.item() for data in dataset])
    forces = np.stack([data.force.numpy() for data in dataset]).astype(np.float64)
    assert result.mae == pytest.approx(np.abs(energies[200:250] - energies[:100].mean()).mean())
    error = np.abs(forces[200:250] - forces[:100].mean(axis=0)).mean()
    assert result.forces.mae == pytest.approx(error)


def test_wrong_arguments(md17, capsys) -> None:
    with pytest.raises(SystemExit, match="--root"):
        md17.run(arguments(md17, "--molecules", "ethanol"))
    with pytest.raises(SystemExit):
        arguments(md17, "--budget", "soon")
    assert "or 5000steps, or 30epochs (got 'soon')" in capsys.readouterr().err
