"""Bonds against RDKit: of molecules it builds, and of QM9 geometries it looks at by itself."""

import dataclasses

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem, rdDetermineBonds
from torch_geometric.loader import DataLoader

from pyg_schnet.datasets import QM9Sample
from pyg_schnet.datasets.bonds import BOND_TYPES, add_bonds, find_bonds
from pyg_schnet.datasets.sample import read_sample

SINGLE, DOUBLE, TRIPLE, AROMATIC = range(4)


@pytest.fixture(scope="module")
def dataset() -> QM9Sample:
    return QM9Sample(bonds=True)


def bond_types(pairs: np.ndarray, types: np.ndarray) -> dict[tuple[int, int], str]:
    return {(i, j): BOND_TYPES[t] for (i, j), t in zip(pairs.T.tolist(), types.tolist())}


def of_rdkit(molecule: Chem.Mol) -> dict[tuple[int, int], str]:
    found = {}
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        found[i, j] = found[j, i] = bond.GetBondType().name
    return found


def build(smiles: str, seed: int = 0) -> Chem.Mol:
    """A force-field geometry, its atoms in random order."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(molecule)
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms())
    return Chem.RenumberAtoms(molecule, order.tolist())


def numbers(molecule: Chem.Mol) -> np.ndarray:
    return np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])


@pytest.mark.parametrize(
    "smiles",
    [
        "C",
        "N",
        "O",
        "C#N",
        "C=O",
        "C#C",
        "CC(=O)N",
        "c1ccccc1",
        "c1ccoc1",
        "Cc1ncc[nH]1",
        "C1=CC=C1",  # the ring is symmetric, its double bonds are not
        "C1=CC=CC=CC=C1",
        "N=C1C=CC=N1",
        "C[N+]#[C-]",
        "OC(=O)C(F)(F)F",
        "CC(C)(C)C#CC=O",
        "C1C2CC1C2",
        "C12C3C4C1C5C2C3C45",  # cubane
        "C1N2CC12",
        "N#CC1=CNC=C1",
    ],
)
def test_bonds_of_known_molecules(smiles: str) -> None:
    molecule = build(smiles)
    bonds = find_bonds(smiles, numbers(molecule), molecule.GetConformer().GetPositions())
    assert bonds is not None
    assert bond_types(bonds.pairs, bonds.types) == of_rdkit(molecule)
    for atom, x in zip(molecule.GetAtoms(), bonds.features, strict=True):
        assert x[5] == atom.GetAtomicNum()
        assert x[:5].argmax() == [1, 6, 7, 8, 9].index(atom.GetAtomicNum())
        assert x[6] == atom.GetIsAromatic()
        kinds = [atom.GetHybridization().name == name for name in ("SP", "SP2", "SP3")]
        assert x[7:10].tolist() == kinds
        hydrogens = [neighbor for neighbor in atom.GetNeighbors() if neighbor.GetAtomicNum() == 1]
        assert x[10] == len(hydrogens)


@pytest.mark.parametrize("smiles", ["C1=CC=C1", "C1C=CC=1", "C1C=CC=CC=CC=1"])
def test_double_bonds_are_where_distances_are_short(smiles: str) -> None:
    """The first of the symmetric matches is the right one by chance, in some orders of atoms."""
    for seed in range(6):
        molecule = build(smiles, seed)
        bonds = find_bonds(smiles, numbers(molecule), molecule.GetConformer().GetPositions())
        assert bonds is not None
        assert bond_types(bonds.pairs, bonds.types) == of_rdkit(molecule)


@pytest.mark.parametrize(
    ("smiles", "geometry"),
    [
        ("CCO", "COC"),  # other bonds
        ("CC=O", "C=CO"),  # a hydrogen elsewhere
        ("CCO", "CCN"),  # other elements
        ("CCO", "CC=O"),
        ("CCO", "CCCO"),
        ("C1CCC1", "C=CCC"),
        ("nonsense", "C"),
    ],
)
def test_geometries_of_other_molecules(smiles: str, geometry: str) -> None:
    molecule = build(geometry)
    assert find_bonds(smiles, numbers(molecule), molecule.GetConformer().GetPositions()) is None


def test_all_of_the_sample_are_found(dataset: QM9Sample) -> None:
    assert bool(dataset.has_bonds.all())
    radii = torch.tensor([0.0, 0.31, 0, 0, 0, 0, 0.76, 0.71, 0.66, 0.57])
    for molecule in dataset[::7]:
        source, target = molecule.bond_index
        distance = (molecule.pos[source] - molecule.pos[target]).norm(dim=1)
        expected = radii[molecule.z[source]] + radii[molecule.z[target]]
        assert ((distance / expected > 0.75) & (distance / expected < 1.25)).all(), molecule.smiles
        assert torch.equal(molecule.bond_attr.sum(1), torch.ones(len(source)))


def test_as_rdkit_finds_them_without_smiles(dataset: QM9Sample) -> None:
    """From positions alone, which works for most molecules."""
    agreed = 0
    for molecule in dataset[::40]:
        block = f"{molecule.num_nodes}\n\n" + "\n".join(
            f"{Chem.GetPeriodicTable().GetElementSymbol(int(z))} {x:.8f} {y:.8f} {w:.8f}"
            for z, (x, y, w) in zip(molecule.z, molecule.pos.tolist())
        )
        found = Chem.MolFromXYZBlock(block)
        try:
            rdDetermineBonds.DetermineBonds(found, charge=0)
        except ValueError:
            continue
        ours = bond_types(molecule.bond_index.numpy(), molecule.bond_attr.argmax(1).numpy())
        assert ours == of_rdkit(found), molecule.smiles
        agreed += 1
    assert agreed > 60


def test_bonds_by_hand(dataset: QM9Sample) -> None:
    """Methane and methyl ethyl ether, by hand."""
    methane, ether = dataset[0], dataset[1]
    assert methane.bond_index.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 0, 0, 0]]
    assert methane.x[0].tolist() == [0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 4]
    assert methane.x[1].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert ether.bond_index.size(1) == 2 * 11
    assert (ether.bond_attr.argmax(1) == SINGLE).all()
    assert "edge_index" not in methane


def test_batches_shift_the_atoms(dataset: QM9Sample) -> None:
    batch = next(iter(DataLoader(dataset[10:20], batch_size=10)))
    assert (batch.batch[batch.bond_index[0]] == batch.batch[batch.bond_index[1]]).all()
    start = int(batch.ptr[7])
    inside = batch.batch[batch.bond_index[0]] == 7
    assert torch.equal(batch.bond_index[:, inside] - start, dataset[17].bond_index)
    assert torch.equal(batch.bond_attr[inside], dataset[17].bond_attr)
    assert torch.equal(batch.x[batch.batch == 7], dataset[17].x)


def test_together_with_edges_and_views(dataset: QM9Sample) -> None:
    both = QM9Sample(bonds=True, cutoff=2.0, targets=["U0"])[[5, 3]]
    assert torch.equal(both[0].bond_index, dataset[5].bond_index)
    assert both[0].edge_index.size(1) != both[0].bond_index.size(1)
    assert set(both.statistics().labels) == {"U0"}


def test_unknown_bonds_are_said_to_be() -> None:
    raw = read_sample().take(np.arange(4))
    raw = dataclasses.replace(raw, smiles=[*raw.smiles[:2], "CCCC", raw.smiles[3]])
    data, slices = QM9Sample._collate_raw(raw)
    with pytest.warns(UserWarning, match=r"of 1 of 4 molecules .* 'has_bonds' is False: gdb_81$"):
        data, slices = add_bonds(data, slices)
    assert data.has_bonds.tolist() == [True, True, False, True]
    assert slices is not None
    assert slices["bond_index"].diff()[2] == 0
    assert not data.x[slices["x"][2] : slices["x"][3]].any()


def test_lone_molecule() -> None:
    data, slices = add_bonds(*QM9Sample._collate_raw(read_sample().take(np.array([0]))))
    assert slices is None
    assert data.bond_index.size(1) == 8
