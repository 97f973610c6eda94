"""The labels of the sample against published numbers and against the geometries."""

import dataclasses
import importlib.resources
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyg_schnet.datasets import QM9, QM9Sample
from pyg_schnet.datasets.sample import read_sample, write_sample

HARTREE = 27.211386246  # eV
RT = 8.31446261815324 * 298.15 / 96485.33212  # eV


@pytest.fixture(scope="module")
def dataset() -> QM9Sample:
    return QM9Sample()


def column(dataset: QM9Sample, name: str) -> Tensor:
    return dataset.y[:, dataset.target_index(name)]


def test_fields(dataset: QM9Sample) -> None:
    assert len(dataset) == 2938
    molecule = dataset[1]
    assert molecule.name == "gdb_41"
    assert molecule.smiles == "CCOC"
    assert molecule.idx.tolist() == [40]
    assert molecule.z.dtype == torch.int64
    assert molecule.pos.dtype == torch.float32
    assert molecule.y.dtype == torch.float64
    assert list(molecule.z.shape) == [12]
    assert list(molecule.pos.shape) == [12, 3]
    assert list(molecule.y.shape) == [1, 19]
    assert (dataset.idx % 40 == 0).all()
    assert (dataset.idx.diff() > 0).all()
    assert int(dataset.idx[-1]) < 120_000


def test_methane_as_published(dataset: QM9Sample) -> None:
    """The first entry of QM9, in the numbers of its file."""
    published = {
        "mu": 0.0,
        "alpha": 13.21,
        "r2": 35.3641,
        "Cv": 6.469,
        "A": 157.7118,
        "B": 157.70997,
        "C": 157.70699,
    }
    in_hartree = {
        "homo": -0.3877,
        "lumo": 0.1171,
        "gap": 0.5048,
        "zpve": 0.044749,
        "U0": -40.47893,
        "U": -40.476062,
        "H": -40.475117,
        "G": -40.498597,
    }
    published |= {name: value * HARTREE for name, value in in_hartree.items()}
    for name, value in published.items():
        assert dataset[0].y[0, dataset.target_index(name)].item() == pytest.approx(value, rel=1e-12)


def test_atomization_energy_of_methane(dataset: QM9Sample) -> None:
    """-395.999595 kcal/mol (0.631066 Hartree) in MoleculeNet's table."""
    atomization = column(dataset, "U0_atom")[0].item() / HARTREE
    assert atomization == pytest.approx(-40.47893 + 37.846772 + 4 * 0.500273, abs=1e-9)
    assert atomization * 627.5095 == pytest.approx(-395.999595, abs=1e-3)


@pytest.mark.parametrize("name", ["U0", "U", "H", "G"])
def test_atomization_is_total_minus_references(dataset: QM9Sample, name: str) -> None:
    reference = dataset.atomref(name)
    assert reference is not None
    for i in [0, 10, 2000]:
        total = dataset[i].y[0, dataset.target_index(name)]
        atomization = dataset[i].y[0, dataset.target_index(f"{name}_atom")]
        expected = total - sum(reference[z, 0] for z in dataset[i].z.tolist())
        torch.testing.assert_close(atomization, expected)


def test_thermodynamics(dataset: QM9Sample) -> None:
    """H = U + RT, for molecules as for atoms; G is below H, and U above U0."""
    rounding = 1.5e-6 * HARTREE
    U, H, G = column(dataset, "U"), column(dataset, "H"), column(dataset, "G")
    assert ((H - U) - RT).abs().max() < rounding
    num_atoms = dataset.slices["z"].diff()
    released = column(dataset, "H_atom") - column(dataset, "U_atom") - RT * (1 - num_atoms)
    assert (released.abs() < rounding * (1 + num_atoms)).all()
    assert (G < H).all()
    assert (column(dataset, "U0") < U).all()


def test_gap(dataset: QM9Sample) -> None:
    gap = column(dataset, "lumo") - column(dataset, "homo")
    assert (column(dataset, "gap") - gap).abs().max() < 1.5e-4 * HARTREE


def test_rotational_constants_follow_from_positions(dataset: QM9Sample) -> None:
    """B and C are h / (8 pi^2 I): geometries and labels belong together, and so do their units."""
    masses = torch.zeros(10, dtype=torch.float64)
    masses[[1, 6, 7, 8, 9]] = torch.tensor(
        [1.00782503, 12.0, 14.00307401, 15.99491462, 18.99840316], dtype=torch.float64
    )
    for i in range(0, len(dataset), 7):
        molecule = dataset[i]
        mass = masses[molecule.z].unsqueeze(1)
        pos = molecule.pos.double()
        pos = pos - (mass * pos).sum(0) / mass.sum()
        inertia = (mass * pos.square()).sum() * torch.eye(3) - (mass * pos).T @ pos
        constants = 505.37901 / torch.linalg.eigvalsh(inertia)  # GHz amu A^2
        labels = molecule.y[0, [17, 18]]
        torch.testing.assert_close(constants[1:], labels, rtol=1e-3, atol=0)


def test_smiles_belong_to_molecules(dataset: QM9Sample) -> None:
    from rdkit import Chem

    for i in range(0, len(dataset), 7):
        molecule = Chem.AddHs(Chem.MolFromSmiles(dataset[i].smiles))
        elements = sorted(atom.GetAtomicNum() for atom in molecule.GetAtoms())
        assert elements == sorted(dataset[i].z.tolist()), dataset[i].smiles


def test_references_as_pyg() -> None:
    from torch_geometric.datasets.qm9 import atomrefs

    for target in range(19):
        reference = QM9.atomref(target)
        if target not in (7, 8, 9, 10):
            assert reference is None
            continue
        assert reference is not None
        assert list(reference.shape) == [101, 1]
        assert reference.dtype == torch.float64
        assert int(reference.count_nonzero()) == 5
        # PyG converts these by the Hartree of 2014, 8e-9 off.
        assert reference[[1, 6, 7, 8, 9], 0].tolist() == pytest.approx(atomrefs[target], rel=1e-8)


def test_units_as_pyg_converts(dataset: QM9Sample) -> None:
    from torch_geometric.datasets.qm9 import conversion

    assert set(dataset.units) == {"pos", *QM9.target_names}
    assert len(QM9.target_names) == 19
    for name, factor in zip(QM9.target_names, conversion.tolist()):
        assert (dataset.units[name] == "eV") == (factor != 1.0), name


def test_target_index() -> None:
    assert QM9.target_index("U0") == 7
    assert QM9.target_index("G_atom") == 15
    assert QM9.target_index(18) == 18
    assert QM9.target_index(np.int64(3)) == 3
    for wrong in ["u0", "energy", -1, 19]:
        with pytest.raises(ValueError, match=rf"unknown target '?{wrong}'?: .*U0 \(7\)"):
            QM9.target_index(wrong)
    with pytest.raises(TypeError, match=r"got 7\.0"):
        QM9.target_index(7.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown target 'energy'"):
        QM9.atomref("energy")


def test_transform_is_applied_at_access() -> None:
    dataset = QM9Sample(transform=lambda data: data.num_nodes)
    assert dataset[0] == 5


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_senseless_cutoff(cutoff: float) -> None:
    with pytest.raises(ValueError, match="'cutoff' must be positive"):
        QM9Sample(cutoff=cutoff)


def test_file_is_small() -> None:
    file = importlib.resources.files("pyg_schnet.datasets") / "qm9_sample.npz"
    assert len(file.read_bytes()) < 1_000_000


def test_file_can_be_made_again(tmp_path: Path) -> None:
    """From more molecules than it has, in any order."""
    sample = read_sample()
    others = dataclasses.replace(sample.take(np.arange(5)), index=np.arange(2, 7))
    left_out = np.setdiff1d(np.arange(1, 120_000, 40), sample.index)[:1]
    doubtful = dataclasses.replace(sample.take(np.array([9])), index=left_out)
    beyond = dataclasses.replace(sample.take(np.array([8])), index=np.array([120_001]))
    parts = [others, sample, doubtful, beyond]
    everything = type(sample)(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(sample)
            if field.name != "smiles"
        },
        smiles=[smiles for part in parts for smiles in part.smiles],
    )
    shuffled = everything.take(np.random.default_rng(0).permutation(len(everything.index)))
    write_sample(shuffled, left_out, tmp_path / "again.npz")
    file = importlib.resources.files("pyg_schnet.datasets") / "qm9_sample.npz"
    with file.open("rb") as shipped, np.load(shipped) as old:
        new = np.load(tmp_path / "again.npz")
        assert sorted(new.files) == sorted(old.files)
        for name in old.files:
            assert new[name].dtype == old[name].dtype
            np.testing.assert_array_equal(new[name], old[name])


def test_uncharacterized_molecules_are_left_out(shared_data: Path) -> None:
    source = np.load(shared_data / "qm9_3000_all_targets.npz")
    expected = source["index"][~source["uncharacterized"]]
    np.testing.assert_array_equal(read_sample().index, expected)


def test_import_is_light() -> None:
    code = (
        "import sys, pyg_schnet.datasets; "
        "print([m for m in ('ase', 'rdkit', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"


def test_positions_have_seven_digits():
    """Methane as published: its carbon at (-0.0126981359, 1.0858041578, 0.0080009958)."""
    carbon = QM9Sample()[0].pos[0]
    published = [-0.0126981359, 1.0858041578, 0.0080009958]
    assert carbon.tolist() == pytest.approx(published, rel=1e-7)
