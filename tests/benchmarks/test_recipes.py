"""The benchmark of recipes changes one thing at a time and gives every run the same cost."""

import json

import numpy as np
import pytest
from suites import arguments

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig


@pytest.fixture
def recipes(load):
    return load("recipes")


@pytest.fixture
def small(recipes, monkeypatch) -> None:
    """A network that takes less time than the paper's."""
    monkeypatch.setattr(
        recipes, "network", lambda: SchNet(8, 8, 1, num_gaussians=10, units="kcal/mol")
    )


def test_variants_are_changes_of_the_base(recipes) -> None:
    base = TrainConfig.paper(forces=True, **recipes.BASE)
    made = [
        {**recipes.BASE, **changes} for changes in (recipes.VARIANTS | recipes.OF_FORCES).values()
    ]
    configs = [TrainConfig.paper(forces=True, **settings) for settings in made]
    assert configs[0] == base
    assert all(config != base for config in configs[1:])
    assert len({str(config) for config in configs}) == len(configs)


def test_quick(recipes, small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipes, "step_costs", lambda *rest: {"16": 0.1, "32": 0.25})
    path = tmp_path / "recipes.json"
    recipes.run(arguments(recipes, "--quick", "--json", str(path)))
    rows = list(json.loads(path.read_text())["rows"].values())
    found = [(row["data"], row["name"], row["step"]) for row in rows]
    # Half a second, in steps of 0.1 s or 0.25 s.
    assert found == [
        ("MD17Sample, ethanol", "base", 5),
        ("MD17Sample, ethanol", "batch 32", 2),
        ("QM9Sample, U0", "base", 5),
        ("QM9Sample, U0", "batch 32", 2),
    ]
    assert [row["config"]["force_weight"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert "force_mae" not in rows[2]["test"]
    text = path.with_suffix(".md").read_text()
    ratio = rows[1]["test"]["force_mae"] / rows[0]["test"]["force_mae"]
    assert f"| {ratio:.2f} |" in next(line for line in text.splitlines() if "batch 32" in line)
    assert text.count("Not run: as in the paper; lr 2e-3; ") == 2
    assert text.count("; rho 1; ") == 1
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_costs_of_steps_are_measured_once(recipes, small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recipes, "BATCH_SIZES", (4, 64))
    _, label, parts = recipes.read_energies(arguments(recipes))
    config = TrainConfig.paper(label=label)
    file = tmp_path / "runs" / "costs.json"
    costs = recipes.step_costs(file, "some", config, parts, 1)
    assert 1e-4 < costs["4"] < costs["64"] < 1.0
    assert recipes.step_costs(file, "some", config, parts, 1) == costs
    assert json.loads(file.read_text()) == {"some": costs}


def test_energies_from_a_file(recipes, tmp_path, monkeypatch) -> None:
    """Without the uncharacterized, in kcal/mol."""
    sample = QM9Sample(targets=["U0"], units="Hartree")
    path = tmp_path / "some.npz"
    flags = np.zeros(len(sample), bool)
    flags[:100] = True
    np.savez(
        path,
        n_atoms=np.array([data.num_nodes for data in sample]),
        Z=sample._data.z.numpy(),
        R=sample._data.pos.numpy(),
        U0=sample._data.y.numpy()[:, 0],
        uncharacterized=flags,
    )
    sizes = []

    def split(dataset, wanted, seed):
        sizes.append(len(dataset))
        return dataset[:5], dataset[5:7], dataset[7:]

    monkeypatch.setattr(recipes, "random_split", split)
    data, label, parts = recipes.read_energies(arguments(recipes, "--qm9", str(path)))
    assert (data, label, sizes) == ("QM9, U0", "energy", [len(sample) - 100])
    first = sample[100]
    assert parts.train[0].energy.item() == pytest.approx(first.y.item() * 627.5094740631, rel=1e-9)
    assert parts.train[0].z.equal(first.z)
