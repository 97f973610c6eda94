"""The benchmark of MD17 reads the files, keeps rows apart, and reports what it measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from suites import FOLDER, arguments

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import evaluate


@pytest.fixture
def md17(load):
    return load("md17")


@pytest.fixture
def data(load):
    return load("md17_data")


@pytest.fixture
def report(load):
    return load("md17_report")


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


def saved(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text())["rows"]


def test_quick(md17, tmp_path) -> None:
    path = tmp_path / "md17.json"
    md17.run(arguments(md17, "--quick", "--json", str(path)))
    rows = saved(path)
    assert [(row["name"], row["task"]) for row in rows.values()] == [
        ("paper", "energies"),
        ("paper", "forces"),
        ("fast", "energies"),
        ("fast", "forces"),
        ("dtnn", "energies"),
    ]
    for name, row in rows.items():
        assert row["step"] == 40
        assert row["parameters"] == (13_291 if row["name"] == "dtnn" else 116_289)
        assert row["sizes"] == {"train": 100, "val": 50, "test": 1150}
        learned = row["task"] == "forces"
        assert (row["config"]["force_weight"] > 0) == learned == ("energies" not in name)
        # Forces are tested in any case; whoever does not learn them is no better than nothing.
        assert (row["test"]["force_mae"] < 0.6 * row["mean_predictor"]["force_mae"]) == learned
        assert row["commit"]
    text = path.with_suffix(".md").read_text()
    assert "| aspirin |  | *4.20* / *23.54* | not run | not run | not run |" in text
    assert "| aspirin |  | *0.37* / *1.35* | *0.27* / *0.99* | not run |" in text
    ours = text.split("## Energies + forces, N = 100, revised labels\n")[1].split("##")[0]
    test = rows["revised ethanol, fast, N = 100, 40steps, seed 0"]["test"]
    assert f"| **{test['energy_mae']:.3f}** / **{test['force_mae']:.3f}** |" in ours
    assert "published" not in ours
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_rows_from_a_file(md17, data, files, monkeypatch, capsys) -> None:
    """Every row is added to those before; one that is done is not run again."""
    monkeypatch.setattr(data, "NUM_VAL", 10)
    path = files / "out.json"
    words = ["--root", str(files), "--molecules", "ethanol", "--num-train", "20", "--rows"]
    kept = ["--directory", str(files / "runs"), "--json", str(path)]
    only = ["paper", "--tasks", "forces", "--budget"]
    md17.run(arguments(md17, *words, *only, "2steps", *kept))
    first = saved(path)
    md17.run(arguments(md17, *words, *only, "3steps", *kept))
    md17.run(arguments(md17, *words, *only, "2steps", *kept))
    rows = saved(path)
    assert [row["step"] for row in rows.values()] == [2, 3]
    name = "ethanol, paper, N = 20, 2steps, seed 0"
    assert rows[name] == first[name]
    # Runs of earlier versions are found by these names.
    assert (files / "runs" / "ethanol_paper_N20_2steps_seed_0" / "result.json").exists()
    assert rows[name]["frames"] == {"number": 60, "first": 0, "last": 590}
    assert str(files) not in path.read_text()
    text = path.with_suffix(".md").read_text()
    assert "60 of the 555,092 frames of the published trajectory (in order of time: " in text
    assert "numbers 0 to 590); 20 to train on, 10 to validate, 30 to test with, at random" in text
    capsys.readouterr()
    md17.run(arguments(md17, "--json", str(path)))  # tables only
    assert capsys.readouterr().out.startswith(text)


def test_energies_alone(md17, data, files, monkeypatch) -> None:
    """Errors are those of the saved model, of forces too."""
    monkeypatch.setattr(data, "NUM_VAL", 10)
    path = files / "out.json"
    words = ["--root", str(files), "--molecules", "ethanol", "--num-train", "20", "--rows", "fast"]
    words += ["--tasks", "energies", "--budget", "2steps"]
    md17.run(arguments(md17, *words, "--directory", str(files / "runs"), "--json", str(path)))
    ((name, row),) = saved(path).items()
    assert name == "ethanol, fast, energies, N = 20, 2steps, seed 0"
    folder = files / "runs" / "ethanol_fast_energies_N20_2steps_seed_0"
    parts = data.open_source(files, "ethanol", "original", None, 20, 0).parts
    result = evaluate(SchNet.load(folder / "best.safetensors"), parts.test, forces=True)
    assert row["test"]["energy_mae"] == pytest.approx(result.mae)
    assert row["test"]["force_mae"] == pytest.approx(result.forces.mae)


def test_too_few_frames(md17, files) -> None:
    """A row says why it cannot be run; nothing is trained."""
    path = files / "out.json"
    words = ["--root", str(files), "--molecules", "ethanol", "--num-train", "50000"]
    words += ["--rows", "dtnn", "fast", "--tasks", "energies", "--json", str(path)]
    md17.run(arguments(md17, *words, "--directory", str(files / "runs")))
    assert not (files / "runs").exists()
    row = saved(path)["ethanol, dtnn, energies, N = 50000, 20m, seed 0"]
    assert row["failure"] == "not run: only 60 frames here"
    text = path.with_suffix(".md").read_text()
    cell = "not run: only 60 frames here"
    assert f"| ethanol |  | *0.07* / *0.76* |  | not run | {cell} | {cell} |" in text


def test_official_splits(md17, data, tmp_path, monkeypatch) -> None:
    """Nothing but the frames of a split is learned from; others of it validate; its own test."""
    monkeypatch.setattr(data, "OFFICIAL", 30)
    monkeypatch.setattr(data, "OFFICIAL_VAL", 10)
    frames = list(MD17Sample("ethanol")[:100])
    member = np.zeros((100, 10), dtype=bool)
    member[10:40, 2], member[50:75, 3] = True, True  # the second split
    np.savez(
        tmp_path / "rmd17_ethanol.npz",
        nuclear_charges=frames[0].z.numpy(),
        coords=torch.stack([frame.pos for frame in frames]).numpy(),
        energies=torch.cat([frame.energy for frame in frames]).numpy(),
        forces=torch.stack([frame.force for frame in frames]).numpy(),
        old_indices=np.arange(100),
        split_member=member,
        split_names=[f"{part}_{k:02d}" for k in range(1, 6) for part in ("train", "test")],
    )
    parts = data.open_source(tmp_path, "ethanol", "revised", 2, 20, 0).parts
    assert parts.sizes == {"train": 20, "val": 10, "test": 25}
    learned = [int(frame.frame) for part in (parts.train, parts.val) for frame in part]
    assert sorted(learned) == list(range(10, 40))
    assert [int(frame.frame) for frame in parts.test] == list(range(50, 75))
    path = tmp_path / "out.json"
    words = ["--root", str(tmp_path), "--molecules", "ethanol", "--labels", "revised"]
    words += ["--split", "2", "--num-train", "20", "--rows", "fast", "--tasks", "forces"]
    words += ["--budget", "2steps", "--json", str(path), "--directory", str(tmp_path / "runs")]
    md17.run(arguments(md17, *words))
    ((name, row),) = saved(path).items()
    assert name == "revised ethanol, split 2, fast, N = 20, 2steps, seed 0"
    assert "--labels revised --split 2 " in row["command"]
    text = path.with_suffix(".md").read_text()
    assert "## Energies + forces, N = 20, revised labels, official splits" in text
    assert "10 to validate, 25 to test with, of official split 2." in text
    with pytest.raises(SystemExit, match=r"official splits have 30 .*: 20 at most \(got 21\)"):
        data.open_source(tmp_path, "ethanol", "revised", 2, 21, 0)


def test_mean_predictor(data) -> None:
    dataset = MD17Sample("ethanol")
    parts = data.Parts(dataset[:100], dataset[100:110], dataset[200:250])
    result = data.mean_predictor(parts)
    energies = np.array([data.energy.item() for data in dataset])
    forces = np.stack([data.force.numpy() for data in dataset]).astype(np.float64)
    assert result.mae == pytest.approx(np.abs(energies[200:250] - energies[:100].mean()).mean())
    error = np.abs(forces[200:250] - forces[:100].mean(axis=0)).mean()
    assert result.forces.mae == pytest.approx(error)


def test_cells_show_the_longest_runs(report) -> None:
    def row(budget: str, seconds: float, energy: float) -> dict:
        test = {"energy_mae": energy, "force_mae": 2 * energy}
        return {"budget": budget, "seconds": seconds, "test": test}

    short, long, again = row("1m", 60, 9.0), row("1h", 3600, 1.0), row("1h", 3599, 2.0)
    assert report._cell([short, long]) == "**1.000** / **2.000**"
    assert report._cell([long, short, again]) == "**1.500** / **3.000** (2 runs)"
    assert report._cell([{"failure": "diverged"}, short]) == "**9.000** / **18.000**"
    assert report._cell([{"failure": "diverged"}]) == "diverged"
    assert report._cell([]) == "not run"


def test_published_table(report) -> None:
    """Every molecule has its place; of a table this size slips are caught by known rows."""
    for columns in report.PUBLISHED.values():
        assert all(len(errors) == len(report.MOLECULES) == 8 for errors in columns.values())
    ethanol = report.MOLECULES.index("ethanol")
    rows = {key: {n: e[ethanol] for n, e in c.items()} for key, c in report.PUBLISHED.items()}
    assert rows["forces", 1_000] == {"SchNet": (0.08, 0.39), "GDML": (0.15, 0.79)}
    assert rows["energies", 50_000] == {"SchNet": (0.07, 0.76), "DTNN": (None, None)}
    # More frames only help, and so do forces.
    few, many = (tuple(report.PUBLISHED["forces", n]["SchNet"]) for n in (1_000, 50_000))
    for worse, better in (
        *zip(few, many),
        *zip(report.PUBLISHED["energies", 1_000]["SchNet"], few),
    ):
        assert better[0] < worse[0]
        assert better[1] < worse[1]


def test_shipped_results(report) -> None:
    """The tables beside the results are those of the results."""
    path = FOLDER / "results" / "md17.json"
    assert path.with_suffix(".md").read_text() == report.as_markdown(json.loads(path.read_text()))


def test_wrong_arguments(md17, capsys) -> None:
    with pytest.raises(SystemExit, match="--root"):
        md17.run(arguments(md17, "--molecules", "ethanol"))
    words = ["--molecules", "ethanol", "--root", "x", "--rows", "dtnn", "--tasks", "forces"]
    with pytest.raises(SystemExit, match="--tasks: dtnn cannot learn forces"):
        md17.run(arguments(md17, *words))
    with pytest.raises(SystemExit, match="--split 2: the original labels"):
        md17.run(arguments(md17, "--split", "2"))
    with pytest.raises(SystemExit):
        arguments(md17, "--budget", "soon")
    assert "or 5000steps, or 30epochs (got 'soon')" in capsys.readouterr().err
