"""What studies share: data from files, rows that are kept, and tables that say what was not run."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig


@pytest.fixture
def studies(load, monkeypatch):
    module = load("studies")
    monkeypatch.setattr(module, "TURNS", 1)
    monkeypatch.setattr(module, "SIZES", {"QM9": (10, 20), "QM9Sample": (10, 20), "quick": (5, 5)})
    return module


@pytest.fixture
def study(studies):
    def network(width: int) -> SchNet:
        return SchNet(width, 8, 1, num_gaussians=10, cutoff=5.0, units="kcal/mol")

    return studies.Study(
        name="some",
        title="Some",
        text=["Text."],
        variants={
            "narrow": studies.Variant("few features", lambda: network(8)),
            "wide": studies.Variant("more features", lambda: network(16)),
            "never": studies.Variant("not to be built", lambda: 1 / 0),
        },
        columns={
            "twice": lambda row: f"{row['twice']:.3f}",
            "width": lambda row: str(row["width"]),
        },
        fresh=lambda model: {"width": model.embedding.embedding_dim},
        trained=lambda model, parts, label, folder: {"twice": 2.0 * len(parts.test)},
    )


@pytest.fixture
def file(tmp_path) -> Path:
    sample = QM9Sample(targets=["U0"], units="Hartree")[:100]
    flags = np.zeros(100, bool)
    flags[:40] = True
    path = tmp_path / "molecules.npz"
    np.savez(
        path,
        n_atoms=np.array([data.num_nodes for data in sample]),
        Z=torch.cat([data.z for data in sample]).numpy(),
        R=torch.cat([data.pos for data in sample]).numpy(),
        U0=torch.cat([data.y[:, 0] for data in sample]).numpy(),
        uncharacterized=flags,
    )
    return path


def arguments(studies, study, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    studies.add_arguments(parser, study)
    return parser.parse_args(words)


def test_rows(studies, study, file, tmp_path, capsys):
    path = tmp_path / "out" / "some.json"
    kept = ["--data", str(file), "--num-train", "30", "--directory", str(tmp_path / "runs")]
    kept += ["--json", str(path), "--budget"]

    def run(*words: str) -> dict[str, dict]:
        studies.run(arguments(studies, study, *kept, *words), study)
        return json.loads(path.read_text())["rows"]

    first = run("3steps", "--only", "narrow")
    (key,) = first
    assert key == "QM9, N = 30, narrow, fast, 3steps, seed 0"
    rows = run("3steps", "--only", "narrow", "wide", "--lr", "2e-3")
    assert len(rows) == 3
    assert rows[key] == first[key]
    run("3steps", "--only", "wide")
    rows = run("3steps", "--only", "narrow")  # done: not trained again
    assert rows[key] == first[key]
    # 60 characterized molecules, 10 of them for validation.
    assert rows[key]["sizes"] == {"train": 30, "val": 10, "test": 20}
    assert rows[key]["config"]["lr"] == TrainConfig.fast().lr
    assert [row["config"]["lr"] for row in rows.values()][1:3] == [2e-3, 2e-3]
    assert (rows[key]["twice"], rows[key]["width"]) == (40.0, 8)
    text = path.with_suffix(".md").read_text()
    assert "## QM9, N = 30, recipe `fast`, 3steps" in text
    assert "## QM9, N = 30, recipe `fast at 0.002`, 3steps" in text
    assert text.count("| **never**: not to be built | not run |") == 2
    wide = next(row for k, row in rows.items() if "wide, fast, 3steps" in k)
    ratio = wide["test"]["energy_mae"] / first[key]["test"]["energy_mae"]
    assert f"| {wide['test']['energy_mae']:.3f} | {ratio:.2f} | 40.000 | 16 |" in text
    assert str(tmp_path) not in text
    assert "--data molecules.npz --num-train 30 --budget 3steps --preset fast --lr 0.002" in text
    capsys.readouterr()
    studies.run(arguments(studies, study, "--only", "--json", str(path)), study)
    assert capsys.readouterr().out.startswith(text)  # tables only


def test_nothing_was_run(studies, study, tmp_path):
    text = studies.as_markdown(study, {"rows": {}})
    assert "| **narrow**: few features | not run |" in text
    assert studies.draw(study, {"rows": {}}).axes


def test_failures_are_rows(studies, study, file, tmp_path, monkeypatch):
    def explode(*args, **kwargs):
        raise FloatingPointError

    monkeypatch.setattr(importlib.import_module("rows"), "fit", explode)
    path = tmp_path / "some.json"
    words = ["--data", str(file), "--num-train", "30", "--only", "wide", "--budget", "2steps"]
    words += ["--directory", str(tmp_path / "runs"), "--json", str(path)]
    studies.run(arguments(studies, study, *words), study)
    line = next(line for line in path.with_suffix(".md").read_text().splitlines() if "wide" in line)
    assert "| diverged |" in line
    assert line.count("|") == 11


def test_molecules_of_a_file(studies, study, file):
    name, label, parts = studies.open_molecules(
        arguments(studies, study, "--data", str(file), "--num-train", "30")
    )
    assert (name, label) == ("QM9", "energy")
    sample = QM9Sample(targets=["U0"], units="kcal/mol")[:100]
    known = {round(data.y.item(), 2) for data in sample[40:]}
    assert {round(data.energy.item(), 2) for data in parts.train} < known
    assert parts.train[0].get("edge_index") is None


def test_errors_of_atom_references(studies, study):
    args = arguments(studies, study, "--num-train", "200")
    _, label, parts = studies.open_molecules(args)

    def table(part) -> tuple[np.ndarray, np.ndarray]:
        counts = [[int((data.z == z).sum()) for z in (1, 6, 7, 8, 9)] for data in part]
        return np.array(counts, float), np.array([data.y.item() for data in part])

    (counts, energies), (test_counts, wanted) = table(parts.train), table(parts.test)
    references = np.linalg.lstsq(counts, energies, rcond=None)[0]
    expected = np.abs(test_counts @ references - wanted).mean()
    assert studies.reference_mae(parts, label) == pytest.approx(expected, rel=1e-6)


def test_timing_leaves_the_model_alone(studies, study):
    _, label, parts = studies.open_molecules(arguments(studies, study, "--num-train", "200"))
    model = study.variants["narrow"].build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert studies.step_ms(model, parts, TrainConfig(label=label)) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training


def test_wrong_arguments(studies, study, file, capsys):
    with pytest.raises(SystemExit, match=r"cannot take 55 of 60 molecules .* beside 10 to valid"):
        studies.open_molecules(arguments(studies, study, "--data", str(file), "--num-train", "55"))
    for words, message in (
        (("--only", "bessel"), "invalid choice: 'bessel'"),
        (("--budget", "soon"), "got 'soon'"),
        (("--root", "a", "--data", "b"), "not allowed with"),
    ):
        with pytest.raises(SystemExit):
            arguments(studies, study, *words)
        assert message in capsys.readouterr().err
