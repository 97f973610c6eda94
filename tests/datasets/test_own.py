"""The user's own molecules: from files, ASE, SMILES and ``Data`` objects."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from torch_geometric.loader import DataLoader

from pyg_schnet import RadiusGraph, SchNet
from pyg_schnet.data import from_ase, from_smiles, random_split, to_ase
from pyg_schnet.data.units import HARTREE, KCAL_PER_MOL
from pyg_schnet.datasets import MoleculeDataset
from pyg_schnet.training import TrainConfig, evaluate, fit

NAMES = ("H2O", "CH3OH", "NH3", "CH4", "C2H6")


def frames(number: int = 5) -> list[Atoms]:
    """Molecules of different sizes with energies and forces at random."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(number):
        atoms = molecule(NAMES[i % len(NAMES)])
        atoms.rattle(0.05, seed=i)
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal() - 10 * len(atoms), forces=rng.normal(size=(len(atoms), 3))
        )
        made.append(atoms)
    return made


def assert_holds(dataset: MoleculeDataset, wanted: list[Atoms], rtol: float = 1e-6) -> None:
    assert len(dataset) == len(wanted)
    for data, atoms in zip(dataset, wanted, strict=True):
        assert data.z.tolist() == atoms.numbers.tolist()
        assert data.pos.dtype == data.force.dtype == torch.float32
        assert data.energy.dtype == torch.float64
        assert data.energy.shape == (1,)
        np.testing.assert_allclose(data.pos, atoms.positions, rtol=rtol, atol=1e-6)
        np.testing.assert_allclose(data.energy, atoms.get_potential_energy(), rtol=1e-8)
        np.testing.assert_allclose(data.force, atoms.get_forces(), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("suffix", ["xyz", "db", "json", "traj"])
def test_files_of_ase(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"frames.{suffix}"
    ase.io.write(path, frames())
    dataset = MoleculeDataset.from_file(path)
    assert_holds(dataset, frames(), rtol=1e-5)
    assert dataset.units == {"pos": "Ang", "energy": "eV", "force": "eV/Ang"}
    assert "cell" not in dataset[0]


@pytest.mark.parametrize("name", ["300K@1.xyz", "run@0:2.traj", "a?b#c@1.db", "\u6c34 \u00fc.xyz"])
def test_any_name_of_a_file(tmp_path: Path, name: str) -> None:
    """ASE takes what follows an @ for numbers of frames."""
    plain = tmp_path / f"plain{Path(name).suffix}"
    ase.io.write(plain, frames())
    assert_holds(MoleculeDataset.from_file(plain.rename(tmp_path / name)), frames(), rtol=1e-5)


def test_foreign_databases_are_left_alone(tmp_path: Path) -> None:
    """ASE would make one of its own of them."""
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE molecules (smiles)")
        database.commit()
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"foreign\.db'.*no table 'systems'"):
        MoleculeDataset.from_file(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_columns_and_data_of_databases(tmp_path: Path, suffix: str) -> None:
    """As ISO17 has them: energies in a column, forces in the data of a row."""
    path = tmp_path / f"frames.{suffix}"
    with ase.db.connect(path) as database:
        for atoms in frames():
            bare = Atoms(atoms.numbers, atoms.positions)
            database.write(
                bare,
                key_value_pairs={"total_energy": atoms.get_potential_energy(), "group": "a"},
                data={"atomic_forces": atoms.get_forces()},
            )
    labels = {"energy": "total_energy", "force": "atomic_forces", "group": "group"}
    dataset = MoleculeDataset.from_file(path, labels=labels)
    assert_holds(dataset, frames())
    assert dataset[2].group == "a"


def test_published_database(shared_data: Path) -> None:
    dataset = MoleculeDataset.from_file(
        shared_data / "iso17_format_sample.db",
        labels={"energy": "total_energy", "force": "atomic_forces"},
    )
    statistics = dataset.statistics()
    assert len(dataset) == 40
    assert statistics.elements == {1: 400, 6: 280, 8: 80}
    assert -11508 < statistics.labels["energy"].min < statistics.labels["energy"].max < -11503


def test_as_from_ase_for_each() -> None:
    dataset = MoleculeDataset.from_ase(frames())
    for data, atoms in zip(dataset, frames(), strict=True):
        expected = from_ase(atoms)
        assert sorted(data.keys()) == sorted(expected.keys())
        for key in ("z", "pos", "energy", "force"):
            assert torch.equal(data[key], expected[key])
    assert_holds(MoleculeDataset.from_ase([to_ase(data) for data in dataset]), frames())


def test_one_molecule() -> None:
    dataset = MoleculeDataset.from_ase(frames(1), cutoff=5.0)
    assert len(dataset) == 1
    assert dataset[0].edge_index.shape == (2, 6)
    assert_holds(dataset, frames(1))


def test_keep() -> None:
    made = frames()
    made[3].calc = None  # no labels, so it must be left out
    with pytest.raises(ValueError, match=r"'energy' .*missing in frame 3, as in 1 of 5 frames"):
        MoleculeDataset.from_ase(made)
    mask = np.array([True, True, True, False, True])
    for keep in (mask, torch.from_numpy(mask), [0, 1, 2, 4]):
        assert_holds(MoleculeDataset.from_ase(made, keep=keep), [*frames()[:3], frames()[4]])
    assert_holds(MoleculeDataset.from_ase(made, keep=[4, 0, 4]), [frames()[i] for i in (4, 0, 4)])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([], "mask of 5 molecules|leaves no molecule"),
        (np.zeros(5, dtype=bool), "leaves no molecule"),
        (np.ones(4, dtype=bool), "mask of 5 molecules or a list"),
        ([0, 5], "from 0 to 4"),
        ([-1], "from 0 to 4"),
        ([0.5], "mask of 5 molecules or a list"),
    ],
)
def test_wrong_keep(keep, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoleculeDataset.from_ase(frames(), keep=keep)


def test_units_of_the_file() -> None:
    plain = MoleculeDataset.from_ase(frames())
    dataset = MoleculeDataset.from_ase(frames(), units={"energy": "kcal/mol"})
    assert dataset.units == {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}
    assert torch.equal(dataset.energy, plain.energy)
    converted = MoleculeDataset.from_ase(frames(), units={"energy": "kcal/mol"}, energy="eV")
    assert converted.units == plain.units
    torch.testing.assert_close(converted.energy, plain.energy * KCAL_PER_MOL)
    torch.testing.assert_close(converted.force, plain.force * KCAL_PER_MOL)


def test_lengths_become_angstrom() -> None:
    bohr = 0.529177210903
    units = {"energy": "Hartree", "pos": "Bohr"}
    dataset = MoleculeDataset.from_ase(frames(), units=units, cutoff=1.0)
    plain = MoleculeDataset.from_ase(frames())
    assert dataset.units["pos"] == dataset.units["edge_weight"] == "Ang"
    assert dataset.units["force"] == "Hartree/Ang"
    torch.testing.assert_close(dataset.pos, plain.pos * bohr)
    torch.testing.assert_close(dataset.force, plain.force / bohr)
    torch.testing.assert_close(dataset.energy, plain.energy)
    assert torch.equal(dataset[0].edge_index, RadiusGraph(1.0)(dataset[0].clone()).edge_index)


def test_forces_get_the_unit_of_the_energy() -> None:
    """Else they would not be its derivative."""
    units = {"energy": "Hartree", "force": "eV/Ang"}
    dataset = MoleculeDataset.from_ase(frames(), units=units)
    plain = MoleculeDataset.from_ase(frames())
    assert dataset.units["force"] == "Hartree/Ang"
    torch.testing.assert_close(dataset.force, plain.force / HARTREE)
    torch.testing.assert_close(dataset.energy, plain.energy)


def test_labels_of_other_kinds_keep_their_units() -> None:
    made = frames()
    for i, atoms in enumerate(made):
        atoms.info |= {"alpha": float(i), "homo": -float(i)}
    units = {"energy": "Hartree", "pos": "Bohr", "alpha": "Bohr^3", "homo": "eV"}
    labels = {"energy": "energy", "force": "forces", "alpha": "alpha", "homo": "homo"}
    dataset = MoleculeDataset.from_ase(made, labels=labels, units=units)
    assert dataset.units == {
        "pos": "Ang",
        "energy": "Hartree",
        "force": "Hartree/Ang",
        "alpha": "Bohr^3",
        "homo": "eV",
    }
    assert dataset.alpha.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert dataset.homo.tolist() == [0.0, -1.0, -2.0, -3.0, -4.0]
    converted = MoleculeDataset.from_ase(made, labels=labels, units=units, energy="eV")
    assert converted.units["energy"] == converted.units["homo"] == "eV"


@pytest.mark.parametrize("make", ["from_ase", "from_arrays", "from_smiles"])
def test_unit_of_everything_is_not_the_unit_to_convert_to(make: str) -> None:
    given = {
        "from_ase": frames(),
        "from_arrays": {"z": np.array([2]), "R": np.zeros((1, 1, 3))},
        "from_smiles": ["O"],
    }
    with pytest.raises(TypeError, match=r"units=\{'energy': .*got 'eV'.*convert to is 'energy'"):
        getattr(MoleculeDataset, make)(given[make], units="eV")


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"energy": "Ang"}, "cannot convert 'Ang'"),
        ({"energy": "calories"}, "unknown unit 'calories'"),
        ({"force": "eV"}, "cannot convert 'eV'"),
        ({"homo": "eV"}, "'units' has 'homo', but the fields are"),
    ],
)
def test_wrong_units(units: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoleculeDataset.from_ase(frames(), units=units)


def test_periodic_and_molecules_together() -> None:
    made = [molecule("H2O"), bulk("Cu"), Atoms("H", cell=[3, 0, 0], pbc=[True, False, False])]
    dataset = MoleculeDataset.from_ase(made)
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch.cell.shape == (3, 3, 3)
    assert batch.pbc.tolist() == [[False] * 3, [True] * 3, [True, False, False]]
    for data, atoms in zip(dataset, made, strict=True):
        assert to_ase(data).pbc.tolist() == atoms.pbc.tolist()
        np.testing.assert_allclose(to_ase(data).cell, atoms.cell, rtol=1e-6)
    assert dataset.units["cell"] == "Ang"
    with_edges = MoleculeDataset.from_ase(made, cutoff=4.0)
    for data, bare in zip(with_edges, dataset, strict=True):
        expected = RadiusGraph(4.0)(bare)
        assert set(data.keys()) == set(expected.keys())
        assert data.num_edges > 0
        for key in expected.keys():  # noqa: SIM118 - Data iterates over pairs
            assert torch.equal(data[key], expected[key])


def test_cells_in_bohr() -> None:
    atoms = bulk("Cu")
    atoms.info["S"] = np.ones(6)
    units = {"energy": "Hartree", "pos": "Bohr"}
    dataset = MoleculeDataset.from_ase([atoms], labels={"stress": "S"}, units=units)
    assert dataset.units == {"pos": "Ang", "cell": "Ang", "stress": "Hartree/Ang^3"}
    np.testing.assert_allclose(dataset.cell[0], atoms.cell * 0.529177210903, rtol=1e-6)
    np.testing.assert_allclose(dataset.stress[0], np.full((3, 3), 0.529177210903**-3), rtol=1e-6)


def test_cells_in_a_unit_of_their_own() -> None:
    dataset = MoleculeDataset.from_ase([bulk("Cu")], units={"cell": "Bohr"})
    assert dataset.units == {"pos": "Ang", "cell": "Ang"}
    np.testing.assert_allclose(dataset.cell[0], bulk("Cu").cell * 0.529177210903, rtol=1e-6)
    with pytest.raises(ValueError, match="cannot convert 'eV'"):
        MoleculeDataset.from_ase([bulk("Cu")], units={"cell": "eV"})


def test_stress() -> None:
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, stress=np.arange(1.0, 7.0))
    dataset = MoleculeDataset.from_ase([atoms, atoms], energy="kcal/mol")
    expected = torch.tensor([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]) / KCAL_PER_MOL
    assert dataset.units["stress"] == "kcal/mol/Ang^3"
    torch.testing.assert_close(dataset[1].stress, expected[None])


def test_views_and_batches() -> None:
    dataset = MoleculeDataset.from_ase(frames(), cutoff=3.0)
    view = dataset[[3, 1]]
    assert isinstance(view, MoleculeDataset)
    assert_holds(view, [frames()[3], frames()[1]])
    assert view.convert_units("meV")[0].energy.item() == 1e3 * dataset[3].energy.item()
    batch = next(iter(DataLoader(dataset, batch_size=5)))
    assert batch.energy.shape == (5,)
    assert batch.edge_index.max() == batch.num_nodes - 1


def test_senseless_arguments_come_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'cutoff' must be positive"):
        MoleculeDataset([], cutoff=-1.0)
    with pytest.raises(ValueError, match="unknown unit 'ev'"):
        MoleculeDataset([], energy="ev")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        MoleculeDataset.from_file(tmp_path / "no.xyz")
    path = tmp_path / "text.xyz"
    path.write_text("damaged, but not looked at yet")
    with pytest.raises(ValueError, match="'cutoff' must be positive"):
        MoleculeDataset.from_file(path, cutoff=-1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cutof'"):
        MoleculeDataset.from_file(path, cutof=1.0)
    with pytest.raises(ValueError, match="unknown unit 'ev'"):
        MoleculeDataset.from_smiles(["C("], energy="ev")


@pytest.mark.parametrize("name", ["text.xyz", "text.db", "text.npz", "text.unknown"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("<html>Service unavailable</html>")
    with pytest.raises(ValueError, match=rf"'.*{name}'"):
        MoleculeDataset.from_file(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, z=np.array([1]), R=np.random.default_rng(0).random((1000, 1, 3)))
    content = bytearray(path.read_bytes())
    content[5000:6000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz' is damaged"):
        MoleculeDataset.from_file(path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "frames.xyz"
    made = frames()
    made[1].positions[2, 0] = np.nan
    ase.io.write(path, made)
    with pytest.raises(ValueError, match=r"frames\.xyz': atom 2 of frame 1 is at \[nan"):
        MoleculeDataset.from_file(path)


def test_smiles() -> None:
    dataset = MoleculeDataset.from_smiles(
        ["C", "CCO"],
        values={"energy": np.array([-1, -2], dtype=np.float32)},
        num_conformers=2,
        units={"energy": "Hartree"},
        energy="eV",
        cutoff=5.0,
    )
    assert dataset.idx.tolist() == [0, 0, 1, 1]
    assert [data.smiles for data in dataset] == ["C", "C", "CCO", "CCO"]
    assert dataset[3].energy.item() == pytest.approx(-2 * HARTREE, rel=1e-15)
    assert torch.equal(dataset[2].pos, from_smiles("CCO", num_conformers=2)[0].pos)
    assert dataset[0].num_edges == 20


def test_smiles_that_fail() -> None:
    smiles = ["C", "C(", "O", "[Na+].[Cl-]"]
    with pytest.raises(ValueError, match=r"2 of 4 SMILES .*\n1: 'C\(' is not.*\n3: '\[Na"):
        MoleculeDataset.from_smiles(smiles)
    with pytest.warns(UserWarning, match="2 of 4 SMILES"):
        dataset = MoleculeDataset.from_smiles(
            smiles, values={"logp": np.arange(4.0)}, skip_failures=True
        )
    assert dataset.logp.tolist() == [0.0, 2.0]
    with pytest.raises(TypeError, match=r"use \['CC'\]"):
        MoleculeDataset.from_smiles("CC")
    with pytest.raises(ValueError, match="'logp' must have 2 numbers"):
        MoleculeDataset.from_smiles(["C", "O"], values={"logp": [1.0]})


def test_without_ase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "frames.xyz"
    path.write_text("1\n\nHe 0 0 0\n")
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(ImportError, match=r"pip install pyg-schnet\[ase\]"):
        MoleculeDataset.from_file(path)


def test_training_on_extended_xyz(tmp_path: Path) -> None:
    """From a file with labels of its own names to errors in the unit of the file."""
    path = tmp_path / "frames.xyz"
    made = frames(40)
    for atoms in made:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.calc = None
    ase.io.write(path, made)
    dataset = MoleculeDataset.from_file(
        path, labels={"energy": "REF_energy"}, units={"energy": "kcal/mol"}, cutoff=4.0
    )
    train, val = random_split(dataset, [30, 10])
    model = SchNet(16, 16, 1, 10, cutoff=4.0)
    history = fit(model, train, val, TrainConfig(label="energy", epochs=1))
    assert model.units == "kcal/mol"
    # Atom references alone explain all but the noise, which is of the size one.
    assert history[0]["val_mae"] < 5.0
    result = evaluate(model, val, "energy")
    assert result.units == "kcal/mol"
    predicted = model.predict(val[0])
    torch.testing.assert_close(predicted["energy"][0], result.predicted[0], rtol=1e-6, atol=1e-6)
    assert predicted["forces"].shape == val[0].pos.shape
