"""Units and statistics of a data set, of views of it, and of a lone molecule."""

import math

import pytest
import torch
from ase import units as ase_units
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.datasets.collated import collate
from pyg_schnet.datasets.molecules import InMemoryMolecules
from pyg_schnet.training import evaluate

UNITS = {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang", "mu": "Debye"}
# ASE keeps the constants of 2014, which differ in the ninth digit.
KCAL = ase_units.kcal / ase_units.mol


class Trajectory(InMemoryMolecules):
    """Molecules of 2, 1 and 3 atoms, or the first of them."""

    def __init__(self, size: int = 3, cutoff: float | None = None, energy: str | None = None):
        super().__init__(None)
        torch.manual_seed(0)
        num_atoms = torch.tensor([2, 1, 3])[:size]
        total = int(num_atoms.sum())
        atoms = {
            "z": torch.tensor([1, 8, 6, 0, 1, 1])[:total],
            "pos": torch.rand(total, 3),
            "force": torch.randn(total, 3),
        }
        molecules = {
            "energy": torch.tensor([-97_000.125, 3.0, math.nan], dtype=torch.float64)[:size],
            "mu": torch.tensor([1.0, 2.0, 3.0])[:size],
        }
        self._hold(*collate(num_atoms, atoms, molecules), UNITS, energy=energy, cutoff=cutoff)


@pytest.mark.parametrize("size", [1, 3])
def test_energies_and_forces_are_converted_together(size: int) -> None:
    dataset = Trajectory(size)
    assert dataset[0].energy == -97_000.125  # PyG keeps what it has once made
    converted = dataset.convert_units(energy="eV")
    assert converted.units == UNITS | {"energy": "eV", "force": "eV/Ang"}
    assert converted[0].energy.dtype == torch.float64
    assert converted[0].energy.item() == pytest.approx(-97_000.125 * KCAL, rel=1e-8)
    torch.testing.assert_close(converted[0].force, dataset[0].force * KCAL)
    assert torch.equal(converted[0].pos, dataset[0].pos)
    assert torch.equal(converted[0].mu, dataset[0].mu)


def test_lengths_are_converted_everywhere() -> None:
    dataset = Trajectory(cutoff=2.0)
    converted = dataset.convert_units(energy="Hartree", length="Bohr")
    assert converted.units["force"] == "Hartree/Bohr"
    for name in ("pos", "edge_weight", "cutoff"):
        assert converted.units[name] == "Bohr"
        expected = dataset[2][name] / ase_units.Bohr
        torch.testing.assert_close(converted[2][name], expected, rtol=1e-6, atol=0)
    factor = KCAL / ase_units.Hartree * ase_units.Bohr
    torch.testing.assert_close(converted[2].force, dataset[2].force * factor)


def test_original_is_left_alone() -> None:
    dataset = Trajectory()
    before = [data.clone() for data in dataset]
    dataset.convert_units("eV", "Bohr")
    assert dataset.units == UNITS
    for old, new in zip(before, dataset, strict=True):
        assert torch.equal(old.force, new.force)
        assert torch.equal(old.pos, new.pos)


def test_there_and_back() -> None:
    dataset = QM9Sample()[:50]
    again = dataset.convert_units("kcal/mol", "Ang").convert_units("eV", "Bohr")
    assert again.units["alpha"] == "Bohr^3"
    assert again.units["pos"] == "Bohr"
    torch.testing.assert_close(again.y, dataset.y, rtol=1e-14, atol=0)


def test_columns_of_y() -> None:
    dataset = QM9Sample()[7:9]
    converted = dataset.convert_units(energy="Hartree")
    assert converted.y.dtype == torch.float64
    for name in dataset.target_names:
        column = dataset.target_index(name)
        factor = 27.211386246 if dataset.units[name] == "eV" else 1.0
        expected = dataset.y[:, column] / factor
        torch.testing.assert_close(converted.y[:, column], expected, rtol=1e-14, atol=0)


def test_views() -> None:
    dataset = Trajectory()
    view = dataset[[2, 0]].convert_units("eV")
    assert len(view) == 2
    torch.testing.assert_close(view[0].force, dataset[2].force * KCAL)
    torch.testing.assert_close(view[1].energy, dataset[0].energy * KCAL)
    assert dataset[[2, 0]].units == UNITS


def test_units_asked_for_at_once() -> None:
    dataset, expected = Trajectory(energy="eV", cutoff=2.0), Trajectory().convert_units("eV")
    assert dataset.units == expected.units | {"edge_weight": "Ang", "cutoff": "Ang"}
    assert torch.equal(dataset[0].energy, expected[0].energy)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "name a unit to convert to"),
        ({"energy": "ev"}, "unknown unit 'ev'"),
        ({"energy": "Ang"}, "cannot convert 'Ang'.* a length.* an energy"),
        ({"energy": "eV/Ang"}, "a force"),
        ({"length": "eV"}, "an energy.* a length"),
        ({"length": "Ang^3"}, "cannot convert"),
    ],
)
def test_impossible_conversions(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trajectory().convert_units(**wanted)


def test_nothing_to_convert() -> None:
    dataset = Trajectory()
    dataset.units = {"mu": "Debye", "pos": "Ang"}
    with pytest.raises(ValueError, match=r"nothing here is in a unit of energy .*Debye"):
        dataset.convert_units(energy="eV")
    assert dataset.convert_units(length="Bohr").units["pos"] == "Bohr"


def test_statistics_by_hand() -> None:
    dataset = Trajectory()
    statistics = dataset.statistics()
    assert statistics.num_molecules == 3
    assert statistics.elements == {1: 3, 6: 1, 8: 1}  # z = 0 is no element
    assert (statistics.num_atoms.min, statistics.num_atoms.mean, statistics.num_atoms.max) == (
        1.0,
        2.0,
        3.0,
    )
    energy, force = statistics.labels["energy"], statistics.labels["force"]
    assert (energy.min, energy.max) == (-97_000.125, 3.0)  # NaN does not count
    assert force.mean == pytest.approx(dataset.force.double().mean().item())
    assert force.std == pytest.approx(dataset.force.double().std(correction=0).item())
    assert set(statistics.labels) == {"energy", "force", "mu"}
    assert statistics.units == {name: UNITS[name] for name in statistics.labels}
    assert "-97000.1" in str(statistics)
    assert "kcal/mol/Ang" in str(statistics)


def test_statistics_of_a_view() -> None:
    dataset = Trajectory(cutoff=1.0)
    statistics = dataset[[2, 2, 1]].statistics()
    assert statistics.num_atoms.mean == pytest.approx(7 / 3)
    assert statistics.elements == {1: 4, 6: 1}
    forces = torch.cat([dataset[i].force for i in (2, 2, 1)])
    assert statistics.labels["force"].max == pytest.approx(forces.max().item())
    assert statistics.labels["mu"].mean == pytest.approx(8 / 3)
    assert math.isnan(dataset[2:].statistics().labels["energy"].mean)


def test_statistics_of_a_lone_molecule() -> None:
    statistics = Trajectory(1).statistics()
    assert statistics.num_molecules == 1
    assert statistics.num_atoms.max == 2.0


def test_empty_views() -> None:
    with pytest.raises(ValueError, match="the data set is empty"):
        Trajectory()[:0].statistics()
    assert Trajectory()[:0].convert_units("eV").units["energy"] == "eV"


def test_statistics_of_targets() -> None:
    dataset = QM9Sample()[::3]
    statistics = dataset.statistics()
    assert tuple(statistics.labels) == dataset.target_names
    y = torch.cat([data.y for data in dataset])
    for column, (name, row) in enumerate(statistics.labels.items()):
        assert row.mean == pytest.approx(y[:, column].mean().item()), name
        assert row.max == y[:, column].max().item()


def test_models_see_the_units() -> None:
    model = SchNet(8, 8, 1, units="eV")
    dataset = Trajectory()[[0]]
    assert evaluate(model, dataset.convert_units("eV"), "energy").units == "eV"
    with pytest.raises(ValueError, match="labels 'energy' are in kcal/mol, the model is in eV"):
        evaluate(model, dataset, "energy")
    subset = torch.utils.data.Subset(dataset, [0])
    with pytest.raises(ValueError, match="are in kcal/mol"):
        evaluate(model, subset, "energy")


def test_transform_is_kept() -> None:
    def center(data: Data) -> Data:
        data.pos = data.pos - data.pos.mean(0)
        return data

    dataset = Trajectory()
    dataset.transform = center
    converted = dataset.convert_units(length="Bohr")
    assert converted[2].pos.mean().abs() < 1e-6
