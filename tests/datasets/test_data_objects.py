"""Data sets of the user's own ``Data`` objects."""

import pytest
import torch
from ase.build import bulk, molecule
from molecules import random_molecule
from torch_geometric.data import Batch, Data

from pyg_schnet import RadiusGraph
from pyg_schnet.data import from_ase
from pyg_schnet.data.units import HARTREE
from pyg_schnet.datasets import MoleculeDataset

EV = {"energy": "eV"}
TOTAL = -1101.48812345678  # eV, more digits than float32 has


def test_data_objects() -> None:
    molecules = [random_molecule(n, seed=n, dtype=torch.float32) for n in (3, 1, 5)]
    for i, data in enumerate(molecules):
        data.energy = torch.tensor([float(i)])
    dataset = MoleculeDataset(molecules, units={"energy": "Hartree"}, energy="eV")
    assert dataset[2].energy.item() == pytest.approx(2 * HARTREE)
    assert torch.equal(dataset[2].pos, molecules[2].pos)
    assert molecules[2].energy.item() == 2.0


def test_atomic_numbers_of_another_kind() -> None:
    """Short integers become those that embeddings take; numbers that are none are refused."""
    dataset = MoleculeDataset(
        [Data(z=torch.tensor([8, 1], dtype=torch.int32), pos=torch.eye(3)[:2])]
    )
    assert dataset[0].z.dtype == torch.long
    assert dataset[0].z.tolist() == [8, 1]
    with pytest.raises(ValueError, match=r"whole numbers|integers"):
        MoleculeDataset([Data(z=torch.tensor([6.5, 1.0]), pos=torch.eye(3)[:2])])


def test_data_objects_that_make_no_sense() -> None:
    first, second = random_molecule(3), random_molecule(2, seed=1)
    with pytest.raises(ValueError, match="there are no molecules"):
        MoleculeDataset([])
    with pytest.raises(TypeError, match=r"got Atoms as molecule 0\): for ase"):
        MoleculeDataset([molecule("H2O")])
    with pytest.raises(ValueError, match=r"molecule 1 must have 'pos'.*\['z'\]"):
        MoleculeDataset([first, Data(z=first.z)])
    energetic = first.clone()
    energetic.energy = 1.0
    with pytest.raises(ValueError, match="say what unit 'energy' is in"):
        MoleculeDataset([energetic])
    with pytest.raises(ValueError, match=r"molecule 0 has \['pos', 'z'\], molecule 1 \['energy'"):
        MoleculeDataset([second, energetic])
    second.pos[1, 0] = torch.inf
    with pytest.raises(ValueError, match=r"atom 1 of molecule 1 is at \[inf"):
        MoleculeDataset([first, second])


def test_cells_of_data_objects_have_an_axis_of_molecules() -> None:
    data = [from_ase(bulk("Cu")), from_ase(bulk("Al"))]
    assert MoleculeDataset(data)[1].pbc.all()
    for molecule_ in data:
        molecule_.cell = molecule_.cell[0]
    with pytest.raises(ValueError, match=r"need cells \[2, 3, 3\].*got \[6, 3\]"):
        MoleculeDataset(data)


@pytest.mark.parametrize(
    "energy",
    [
        TOTAL,
        torch.tensor(TOTAL, dtype=torch.float64),
        torch.tensor([TOTAL], dtype=torch.float64),
        torch.tensor([[TOTAL]], dtype=torch.float64),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_energies_keep_their_digits(energy: float | torch.Tensor, size: int) -> None:
    """PyG would make float32 of numbers."""
    molecules = [random_molecule(3, seed=i) for i in range(size)]
    for data in molecules:
        data.energy, data.weight = energy, 0.1
    dataset = MoleculeDataset(molecules, units=EV)
    assert dataset[size - 1].energy.tolist() == [TOTAL]
    assert dataset[0].energy.dtype == torch.float64
    assert dataset[0].weight.tolist() == [0.1]
    assert molecules[0].energy is energy
    assert dataset.statistics().labels["energy"].mean == pytest.approx(TOTAL, rel=1e-15)


def test_whole_numbers_are_converted_in_double_precision() -> None:
    data = random_molecule(3)
    data.energy, data.other = -1101, torch.tensor([-1101])
    units = {"energy": "Hartree", "other": "Hartree"}
    dataset = MoleculeDataset([data, data], units=units, energy="eV")
    for name in ("energy", "other"):
        assert dataset[1][name].item() == pytest.approx(-1101 * HARTREE, rel=1e-15), name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("force", torch.zeros(2, 3), r"'force' of molecule 1 must have the shape \[3, 3\] .*2, 3"),
        ("force", torch.zeros(9), r"\[3, 3\] \(got \[9\]"),
        ("pos", torch.zeros(4, 3), r"'pos' of molecule 1 must have the shape \[3, 3\]"),
        ("energy", torch.zeros(3), r"'energy' of molecule 1 must have the shape \[1\] \(got \[3"),
        ("stress", torch.zeros(3, 3), r"shape \[1, 3, 3\] \(got \[3, 3"),
        ("stress", "none", r"\(got str\)"),
    ],
)
def test_labels_of_the_wrong_shape(name: str, value: torch.Tensor | str, message: str) -> None:
    """Each has as many rows as needed, if all are taken together."""
    molecules = [random_molecule(4), random_molecule(3)]
    for data in molecules:
        data.energy, data.force = torch.zeros(1), torch.zeros(data.num_nodes, 3)
        data.stress = torch.zeros(1, 3, 3)
    MoleculeDataset(molecules, units=EV)
    molecules[1][name] = value
    with pytest.raises(ValueError, match=message):
        MoleculeDataset(molecules, units=EV)


def test_batches_are_taken_apart() -> None:
    molecules = [random_molecule(4), random_molecule(3)]
    batch = Batch.from_data_list(molecules)
    for together in (batch, Data(z=batch.z, pos=batch.pos, batch=batch.batch)):
        with pytest.raises(TypeError, match=r"molecule 1 is a batch .*to_data_list"):
            MoleculeDataset([molecules[0], together])
    assert len(MoleculeDataset(batch.to_data_list())) == 2


def test_distances_follow_the_positions() -> None:
    """Edges of before are those of the molecule in its new unit."""
    molecules = [RadiusGraph(3.0)(random_molecule(n, dtype=torch.float32)) for n in (4, 3)]
    dataset = MoleculeDataset(molecules, units={"pos": "Bohr"})
    assert dataset.units == dict.fromkeys(("pos", "edge_weight", "cutoff"), "Ang")
    for data, old in zip(dataset, molecules, strict=True):
        expected = RadiusGraph(3.0 * 0.529177210903)(Data(z=data.z, pos=data.pos))
        assert torch.equal(data.edge_index, old.edge_index)
        for name in ("edge_weight", "cutoff"):
            torch.testing.assert_close(data[name], expected[name], rtol=1e-6, atol=0)
