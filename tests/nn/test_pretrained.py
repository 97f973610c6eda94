"""Trained models that come with the package: they predict as their records say."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyg_schnet import SchNet, pretrained
from pyg_schnet.datasets import MD17Sample, QM9Sample
from pyg_schnet.training import evaluate
from pyg_schnet.training.domain import closest_distances

PUBLISH = Path(__file__).parents[2] / "benchmarks" / "publish.py"


@pytest.mark.parametrize("name", pretrained.names())
def test_records(name: str) -> None:
    model, about = SchNet.from_pretrained(name), pretrained.record(name)
    assert not model.training
    assert about["unit"] == model.units
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert about["test"]["energy_mae"] <= about["test"]["energy_rmse"]
    assert about["command"].startswith("python benchmarks/run.py ")
    assert all(about[key] for key in ("commit", "environment", "config", "sizes", "step"))


def test_ethanol() -> None:
    # The sample has the revised labels, whose energies have another origin and whose forces are of
    # another functional and basis set. Frames tell apart what was learned from the mean.
    frames = MD17Sample("ethanol")[:200]
    result = evaluate(SchNet.from_pretrained("md17-ethanol"), frames, "energy", forces=True)
    error = result.predicted - result.reference
    assert (error - error.mean()).abs().mean() < 0.2 * result.reference.std()
    assert result.forces is not None
    assert result.forces.mae < 0.25 * result.forces.reference.abs().mean()


def test_qm9() -> None:
    # Many of these molecules it was trained on; the record has the error on others.
    sample = QM9Sample(units="kcal/mol")
    assert evaluate(SchNet.from_pretrained("qm9-u0"), sample, "U0").mae < 0.3


@pytest.mark.parametrize(
    ("name", "sample"), [("md17-ethanol", lambda: MD17Sample("ethanol")), ("qm9-u0", QM9Sample)]
)
def test_closest_distances(name: str, sample: Callable[[], Any]) -> None:
    model = SchNet.from_pretrained(name)
    found = closest_distances(sample()[:300], model.cutoff)
    seen = model.closest.isfinite()
    assert seen[[1, 1, 6, 6], [6, 8, 6, 8]].all()  # what every one of them has, and no more:
    assert not seen[[2, 1], [6, 17]].any()
    # Others from the same source hardly come closer.
    assert (found[seen] > 0.9 * model.closest[seen]).all()
    molecule = sample()[0]
    model.predict(molecule, domain="raise")
    molecule.pos *= 0.8
    with pytest.raises(ValueError, match="closest such pair in the training data"):
        model.predict(molecule, domain="raise")


def test_unknown() -> None:
    with pytest.raises(ValueError, match=r"no trained model 'qm9': choose .*'md17-ethanol'"):
        SchNet.from_pretrained("qm9")
    with pytest.raises(ValueError, match=r"no trained model '../names'"):
        pretrained.record("../names")


def publish(*words: str, package: Path) -> subprocess.CompletedProcess:
    code = (
        f"import sys; sys.path.insert(0, {str(PUBLISH.parent)!r}); import publish; "
        f"from pathlib import Path; publish.main({list(words)!r}, Path({str(package)!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_publish(tmp_path) -> None:
    torch.manual_seed(0)
    model = SchNet.paper(units="kcal/mol")
    model.save(tmp_path / "run" / "best.safetensors")
    row = {"test": {"energy_mae": 1.0}, "curve": [1, 2], "command": "python", "preset": "fast"}
    (tmp_path / "run" / "result.json").write_text(json.dumps({"test": row["test"]}))
    (tmp_path / "results.json").write_text(json.dumps({"rows": {"first": row}}))
    words = ["new", "--run", str(tmp_path / "run"), "--json", str(tmp_path / "results.json")]

    done = publish(*words, "--row", "first", package=tmp_path / "package")
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "package" / "new.json").read_text())
    assert about == {"test": {"energy_mae": 1.0}, "command": "python", "unit": "kcal/mol"}
    copy = SchNet.load(tmp_path / "package" / "new.safetensors")
    assert copy.embedding.weight.equal(model.embedding.weight)

    assert (
        "has none of this name, but first" in publish(*words, "--row", "x", package=tmp_path).stderr
    )
    (tmp_path / "run" / "result.json").write_text(json.dumps({"test": {"energy_mae": 2.0}}))
    assert "are not those of" in publish(*words, "--row", "first", package=tmp_path).stderr
