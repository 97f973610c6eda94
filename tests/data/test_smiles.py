import re

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from pyg_schnet.data import from_smiles


def distances(pos: torch.Tensor) -> torch.Tensor:
    return torch.cdist(pos, pos)


@pytest.mark.parametrize(
    ("smiles", "z"),
    [
        ("O", [8, 1, 1]),
        ("C", [6, 1, 1, 1, 1]),
        ("[H][H]", [1, 1]),
        ("[He]", [2]),
        ("c1ccccc1", [6] * 6 + [1] * 6),
        ("C[N+](C)(C)CC(=O)[O-]", [6, 7, 6, 6, 6, 6, 8, 8] + [1] * 11),
    ],
)
def test_atoms(smiles, z):
    data = from_smiles(smiles)
    assert data.z.tolist() == z
    assert data.pos.shape == (len(z), 3)
    assert data.pos.dtype == torch.get_default_dtype()
    assert data.smiles == smiles
    assert data.charge.tolist() == [0]


def test_geometry_of_methane():
    """MMFF94: four bonds of 1.09 angstrom, tetrahedral."""
    pos = from_smiles("C").pos.double()
    bonds = pos[1:] - pos[0]
    lengths = bonds.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.092), atol=2e-3, rtol=0)
    cosines = (bonds @ bonds.T / lengths.outer(lengths))[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / 3), atol=2e-3, rtol=0)


def test_stereochemistry_is_kept():
    volumes = []
    for smiles in ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"):
        pos = from_smiles(smiles).pos
        volumes.append(torch.det(pos[[0, 2, 3]] - pos[1]).item())  # N, CH3, COOH around the centre
    assert volumes[0] * volumes[1] < 0


@pytest.mark.parametrize(
    ("smiles", "charge", "multiplicity"),
    [
        ("[NH4+]", 1, 1),
        ("[OH-]", -1, 1),
        ("[CH3]", 0, 2),
        ("[O][O]", 0, 3),
        ("[Na+]", 1, 1),
        ("[C-]#[O+]", 0, 1),
    ],
)
def test_ions_and_radicals_are_marked(smiles, charge, multiplicity):
    data = from_smiles(smiles)
    assert (data.charge.tolist(), data.multiplicity.tolist()) == ([charge], [multiplicity])


def test_seed():
    first, again, other = (from_smiles("CCCCO", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.pos, again.pos)
    assert not torch.allclose(distances(first.pos), distances(other.pos), atol=1e-3)


def test_conformers_differ():
    conformers = from_smiles("CCCCO", num_conformers=3, seed=4)
    assert isinstance(conformers, list)
    assert len(conformers) == 3
    shapes = [distances(data.pos) for data in conformers]
    assert not torch.allclose(shapes[0], shapes[1], atol=1e-2)
    assert conformers[0].z is not conformers[1].z


@pytest.mark.parametrize("force_field", ["mmff", "uff"])
def test_relaxed_structures_are_minima(force_field):
    smiles = "CC(=O)NC"
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=1)

    def energy(data) -> float:
        conformer = molecule.GetConformer()
        for i, position in enumerate(data.pos.double().tolist()):
            conformer.SetAtomPosition(i, position)
        if force_field == "uff":
            return AllChem.UFFGetMoleculeForceField(molecule).CalcEnergy()
        properties = AllChem.MMFFGetMoleculeProperties(molecule)
        return AllChem.MMFFGetMoleculeForceField(molecule, properties).CalcEnergy()

    relaxed = from_smiles(smiles, optimize=force_field)
    assert energy(relaxed) < energy(from_smiles(smiles, optimize=None)) - 0.1
    relaxed.pos = relaxed.pos + 0.02 * torch.randn(relaxed.pos.shape)
    assert energy(from_smiles(smiles, optimize=force_field)) < energy(relaxed)


def test_no_energy_that_could_be_taken_for_a_label():
    keys = sorted(from_smiles("CO").keys())
    assert keys == ["charge", "multiplicity", "pos", "smiles", "z"]


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C(", r"'C\(' is not a SMILES"),
        ("", "'' is not the SMILES of a molecule: it has no atoms"),
        ("CC(C)(C)(C)C", r"is no possible molecule: .*valence for atom # 1 C, 5"),
        ("c1cccc1", "'c1cccc1' is no possible molecule: .*kekulize"),
        ("[Na+].[Cl-]", "is several molecules"),
        ("*C", "has atomic number 0"),
        ("[Og]", "has atomic number 118"),
        ("N[Pt](N)(Cl)Cl", r"no force field has parameters .*optimize=None"),
    ],
)
def test_no_structure(smiles, message, capfd):
    with pytest.raises(ValueError, match=message):
        from_smiles(smiles)
    assert capfd.readouterr().err == ""  # RDKit keeps quiet


@pytest.mark.parametrize("smiles", ["C1[C@H]2[C@@H]1C2", "C1#CC1"])
def test_impossible_geometry(smiles):
    """Two small rings joined trans, and a triple bond in a ring of three."""
    with pytest.raises(ValueError, match=f"found 0 of 1 conformers of '{re.escape(smiles)}'"):
        from_smiles(smiles)


def test_coordinates_without_a_force_field():
    data = from_smiles("N[Pt](N)(Cl)Cl", optimize=None)
    assert data.z.tolist() == [7, 78, 7, 17, 17, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"smiles": None}, TypeError, "must be a string"),
        ({"num_conformers": 0}, ValueError, "at least 1"),
        ({"num_conformers": 1.5}, TypeError, "whole number"),
        ({"optimize": "AM1"}, ValueError, "'mmff', 'uff' or None"),
        ({"optimize": True}, ValueError, "'mmff', 'uff' or None"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        from_smiles(**{"smiles": "C", **arguments})
