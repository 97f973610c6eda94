"""Arrays of molecules in the layouts of published files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from pyg_schnet.data import from_ase
from pyg_schnet.data.units import HARTREE
from pyg_schnet.datasets import MoleculeDataset, QM9Sample

EV = {"energy": "eV"}


def frames_of_one_composition() -> dict[str, np.ndarray]:
    """As sGDML writes them."""
    rng = np.random.default_rng(0)
    return {
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R": rng.normal(size=(4, 3, 3)),
        "E": rng.normal(size=(4, 1)),
        "F": rng.normal(size=(4, 3, 3)),
    }


def ragged() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "n_atoms": np.array([3, 1, 2], dtype=np.uint8),
        "Z": np.array([8, 1, 1, 2, 6, 8], dtype=np.uint8),
        "R": rng.normal(size=(6, 3)).astype(np.float32),
        "U0": np.array([-76.0, -2.9, -113.0]),
        "mu": rng.normal(size=(3, 3)),
        "q": rng.normal(size=6),
        "smiles": np.array([b"O", b"[He]", b"[C-]#[O+]"]),
        "index": np.array([7, 8, 9]),
    }


def test_positions_that_only_float64_can_hold() -> None:
    pos = np.zeros((2, 2, 3))
    pos[1, 1, 2] = 1e300
    with pytest.raises(
        ValueError, match=r"atom 1 of molecule 1 .*1e\+300.* too far away for torch"
    ):
        MoleculeDataset.from_arrays({"z": np.array([1, 1]), "R": pos})


def test_frames_of_one_composition() -> None:
    arrays = frames_of_one_composition()
    dataset = MoleculeDataset.from_arrays(arrays, units={"energy": "kcal/mol"})
    assert len(dataset) == 4
    assert dataset.units == {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}
    for i, data in enumerate(dataset):
        assert data.z.tolist() == [8, 1, 1]
        assert data.energy.tolist() == arrays["E"][i].tolist()
        np.testing.assert_array_equal(data.pos, arrays["R"][i].astype(np.float32))
        np.testing.assert_array_equal(data.force, arrays["F"][i].astype(np.float32))


def test_names_of_the_revised_files() -> None:
    arrays = frames_of_one_composition()
    names = {"z": "nuclear_charges", "R": "coords", "E": "energies", "F": "forces"}
    renamed = {new: arrays[old] for old, new in names.items()}
    dataset = MoleculeDataset.from_arrays(renamed, units=EV)
    expected = MoleculeDataset.from_arrays(arrays, units=EV)
    assert torch.equal(dataset.force, expected.force)
    assert torch.equal(dataset.energy, expected.energy)


def test_padded_molecules() -> None:
    arrays = frames_of_one_composition()
    arrays["z"] = np.array([[8, 1, 1], [2, 0, 0], [6, 8, 0], [0, 1, 1]])
    dataset = MoleculeDataset.from_arrays(arrays, units=EV)
    assert [data.z.tolist() for data in dataset] == [[8, 1, 1], [2], [6, 8], [1, 1]]
    np.testing.assert_array_equal(dataset[3].force, arrays["F"][3, 1:].astype(np.float32))
    np.testing.assert_array_equal(dataset[2].pos, arrays["R"][2, :2].astype(np.float32))


def test_ragged() -> None:
    arrays = ragged()
    labels = {"energy": "U0", "dipole": "mu", "charge": "q", "idx": "index"}
    dataset = MoleculeDataset.from_arrays(
        arrays, labels=labels, units={"energy": "Hartree", "dipole": "Debye"}, energy="eV"
    )
    assert [data.z.tolist() for data in dataset] == [[8, 1, 1], [2], [6, 8]]
    assert [data.smiles for data in dataset] == ["O", "[He]", "[C-]#[O+]"]
    assert dataset[2].energy.item() == pytest.approx(-113.0 * HARTREE, rel=1e-12)
    assert dataset.idx.tolist() == [7, 8, 9]
    assert dataset.units["dipole"] == "Debye"
    np.testing.assert_array_equal(dataset[1].dipole, arrays["mu"][1:2])
    np.testing.assert_array_equal(dataset[2].charge, arrays["q"][4:].astype(np.float32))
    np.testing.assert_array_equal(dataset[2].pos, arrays["R"][4:])


@pytest.mark.parametrize("keep", [[2, 1], np.array([False, True, True])])
def test_keep(keep) -> None:
    arrays = ragged()
    arrays["R"][0] = np.nan  # of the first molecule, which is left out
    labels = {"energy": "U0", "charge": "q"}
    dataset = MoleculeDataset.from_arrays(arrays, labels=labels, units=EV, keep=keep)
    rows = np.arange(3)[keep]
    everything = MoleculeDataset.from_arrays(ragged(), labels=labels, units=EV)
    for data, row in zip(dataset, rows, strict=True):
        assert data.smiles == everything[row].smiles
        assert torch.equal(data.z, everything[row].z)
        assert torch.equal(data.charge, everything[row].charge)
        assert torch.equal(data.energy, everything[row].energy)


def test_keep_of_frames() -> None:
    arrays = frames_of_one_composition()
    dataset = MoleculeDataset.from_arrays(arrays, units=EV, keep=[3, 1])
    np.testing.assert_array_equal(dataset[0].force, arrays["F"][3].astype(np.float32))
    np.testing.assert_array_equal(dataset.energy, arrays["E"][[3, 1], 0])


def test_stated_units() -> None:
    arrays = {**frames_of_one_composition(), "e_unit": np.array("kcal/mol"), "r_unit": b"Ang"}
    assert MoleculeDataset.from_arrays(arrays).units["force"] == "kcal/mol/Ang"
    dataset = MoleculeDataset.from_arrays(arrays, units=EV)
    assert dataset.units["force"] == "eV/Ang"


def test_whole_numbers_become_floats() -> None:
    arrays = frames_of_one_composition()
    arrays |= {"E": np.arange(4) - 1101, "F": np.ones((4, 3, 3), dtype=np.int16)}
    dataset = MoleculeDataset.from_arrays(arrays, units={"energy": "Hartree"}, energy="eV")
    assert dataset[1].energy.item() == pytest.approx(-1100 * HARTREE, rel=1e-15)
    assert dataset[1].force.dtype == torch.float32


def test_energies_need_a_unit() -> None:
    with pytest.raises(ValueError, match="say what unit 'energy' is in"):
        MoleculeDataset.from_arrays(frames_of_one_composition())


def test_cells() -> None:
    arrays = frames_of_one_composition()
    arrays["cell"] = 9.0 * np.eye(3)
    dataset = MoleculeDataset.from_arrays(arrays, units=EV)
    assert dataset[3].cell.shape == (1, 3, 3)
    assert dataset[3].pbc.tolist() == [[True] * 3]
    arrays["cell"] = np.stack([i * np.eye(3) for i in range(4)])
    arrays["pbc"] = np.array([[False] * 3, *[[True, False, True]] * 3])
    dataset = MoleculeDataset.from_arrays(arrays, units=EV, keep=[0, 2])
    assert dataset.cell.diagonal(dim1=1, dim2=2).tolist() == [[0.0] * 3, [2.0] * 3]
    assert dataset[1].pbc.tolist() == [[True, False, True]]


def test_cells_hold_lattice_vectors_as_rows() -> None:
    atoms = bulk("Cu").repeat((2, 1, 1))
    atoms.cell[0, 1] += 0.5  # no longer symmetric
    arrays = {"z": atoms.numbers, "R": atoms.positions[None], "cell": atoms.cell.array}
    assert torch.equal(MoleculeDataset.from_arrays(arrays).cell, from_ase(atoms).cell)


def test_stress() -> None:
    arrays = {**frames_of_one_composition(), "S": np.ones((4, 3, 3)), "cell": np.eye(3)}
    labels = {"energy": "E", "stress": "S"}
    dataset = MoleculeDataset.from_arrays(arrays, labels=labels, units={"energy": "Hartree"})
    assert dataset.units["stress"] == "Hartree/Ang^3"
    assert dataset[0].stress.shape == (1, 3, 3)
    assert dataset[0].stress.dtype == torch.float32
    arrays["S"] = np.ones((4, 6))
    with pytest.raises(ValueError, match=r"'S' must have shape \[4, 3, 3\]"):
        MoleculeDataset.from_arrays(arrays, labels=labels, units=EV)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": None}, r"no atomic numbers: .*nuclear_charges.*there are \['E', 'F', 'R'\]"),
        ({"R": None}, "no positions"),
        ({"Z": np.array([8, 1, 1])}, r"\['z', 'Z'\] are ambiguous"),
        ({"z": np.array([8, 1])}, r"go with atomic numbers \[n\] or \[B, n\]"),
        ({"z": np.array([8.0, 1.0, 1.0])}, "must be integers"),
        ({"R": np.zeros((4, 3, 2))}, r"positions \[4, 3, 2\]"),
        ({"R": np.zeros((12, 3))}, "need the number of atoms .*n_atoms"),
        ({"R": np.full((4, 3, 3), np.inf)}, r"atom 0 of molecule 0 is at \[inf"),
        ({"E": np.zeros(3)}, "'E' must have 4 rows, one per molecule"),
        ({"E": np.zeros((4, 2))}, "'E' must be one energy per molecule"),
        ({"F": np.zeros((4, 2, 3))}, r"'F' must have shape \[4, 3, 3\]"),
        ({"F": np.zeros((4, 3, 2))}, "'F' must have three components"),
        ({"lattice": np.eye(3)}, "'lattice' is ambiguous"),
        ({"cell": np.eye(2)}, r"'cell' must have shape \[3, 3\]"),
        ({"pbc": np.array([True] * 3)}, "there is no array 'cell'"),
        ({"cell": np.eye(3), "pbc": np.array(["F"] * 3)}, "'pbc' must hold truth values"),
        ({"z": np.array([8, 1, 1], dtype=object)}, "arrays of Python objects"),
    ],
)
def test_wrong_frames(change, message: str) -> None:
    arrays = {**frames_of_one_composition(), **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        MoleculeDataset.from_arrays(arrays, units=EV)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_atoms": np.array([3, 1, 1])}, "'atomic numbers' must have 5 rows"),
        ({"n_atoms": np.array([3, 0, 3])}, "molecule 1 has no atoms"),
        ({"n_atoms": np.array([3.0, 1.0, 2.0])}, "must be integers of shape"),
        ({"Z": np.array([8, 1, 1, 2, 6, 101])}, "atom 1 of molecule 2 has atomic number 101"),
        ({"U0": np.zeros(4)}, "'U0' must have 3 rows"),
        ({"U0": np.array([1j, 0, 0])}, "must hold numbers or strings"),
        ({"q": np.zeros(5)}, "'q' must have 3 rows"),
        ({"U0": np.zeros(6)}, r"'U0' has one row per atom .*'energy' belongs to molecules"),
        ({"n_atoms": np.array([7, -1])}, "molecule 1 has no atoms"),
    ],
)
def test_wrong_ragged(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoleculeDataset.from_arrays(
            {**ragged(), **change}, labels={"energy": "U0", "charge": "q"}, units=EV
        )


def test_unknown_labels() -> None:
    with pytest.raises(ValueError, match=r"no array 'U1'; there are \['R', 'U0', 'Z', 'index'"):
        MoleculeDataset.from_arrays(ragged(), labels=["U1"])
    with pytest.raises(ValueError, match="cannot be called 'index'"):
        MoleculeDataset.from_arrays(ragged(), labels=["index"])


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **ragged())
    dataset = MoleculeDataset.from_file(path, labels={"energy": "U0"}, units=EV, cutoff=2.0)
    assert dataset.energy.tolist() == [-76.0, -2.9, -113.0]
    assert dataset[1].num_edges == 0
    np.savez(path, z=np.array([{}]), R=np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match=r"own\.npz'.*Object arrays"):
        MoleculeDataset.from_file(path)


def test_qm9(shared_data: Path) -> None:
    """All of it, against the molecules that come with the package."""
    path = shared_data / "qm9.npz"
    uncharacterized = np.load(path)["uncharacterized"]
    dataset = MoleculeDataset.from_file(
        path,
        labels={"energy": "U0", "homo": "homo", "idx": "index"},
        units={"energy": "Hartree", "homo": "Hartree"},
        energy="eV",
        keep=~uncharacterized,
    )
    assert len(dataset) == 130_831
    sample = QM9Sample()
    rows = np.searchsorted(dataset.idx.numpy(), sample.idx.numpy() + 1)
    for i in (0, 1, 1000, len(sample) - 1):
        data = dataset[int(rows[i])]
        assert data.smiles == sample[i].smiles
        assert torch.equal(data.z, sample[i].z)
        assert torch.equal(data.pos, sample[i].pos)
        assert data.energy.item() == pytest.approx(sample[i].y[0, 7].item(), rel=1e-12)
        assert data.homo.item() == pytest.approx(sample[i].y[0, 2].item(), rel=1e-12)


@pytest.mark.parametrize("name", ["md17_aspirin", "rmd17_aspirin"])
def test_md17(shared_data: Path, name: str) -> None:
    path = shared_data / "md17" / f"{name}.npz"
    dataset = MoleculeDataset.from_file(path, units={"energy": "kcal/mol"})
    arrays = np.load(path)
    energies, forces = ("energies", "forces") if name[0] == "r" else ("E", "F")
    assert len(dataset) == 9_633
    assert dataset[5].energy.item() == arrays[energies].reshape(-1)[5]
    np.testing.assert_array_equal(dataset[5].force, arrays[forces][5])
    # Forces on a molecule add up to nothing; a wrong shape or order would show.
    assert dataset[7].force.sum(dim=0).abs().max() < 0.01 * dataset[7].force.abs().max()
