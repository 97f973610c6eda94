"""Mini-batches of crystals, and of crystals and molecules."""

import pytest
import torch
from batches import InMemory, assert_same
from molecules import random_molecule
from torch_geometric.data import Batch

from pyg_schnet import RadiusGraph
from pyg_schnet.loader import MoleculeLoader


@pytest.mark.parametrize("pbc", [True, False])
def test_periodic_edges(pbc: bool) -> None:
    """Those of RadiusGraph, in batches of crystals and molecules, sliced and one by one."""
    made = []
    for i in range(9):
        data = random_molecule(2 + i % 4, seed=i, dtype=torch.float32)
        periodic = pbc and i % 3 > 0
        data.cell = float(periodic) * (3.0 + 0.2 * i) * torch.eye(3).unsqueeze(0)
        data.pbc = torch.full((1, 3), periodic)
        made.append(data)
    dataset = InMemory(made)
    for source in (dataset, made):
        loader = MoleculeLoader(source, batch_size=4, cutoff=3.5)
        assert (loader.reason is None) == (source is dataset)
        for batch, start in zip(loader, range(0, 9, 4), strict=True):
            wanted = [RadiusGraph(3.5)(data.clone()) for data in made[start : start + 4]]
            assert_same(batch, Batch.from_data_list(wanted))
            assert bool(batch.edge_shift.any()) == pbc


def test_cells_without_pbc_are_not_sliced() -> None:
    made = [random_molecule(3, seed=i) for i in range(4)]
    for data in made:
        data.cell = 3.0 * torch.eye(3, dtype=torch.float64).unsqueeze(0)
    loader = MoleculeLoader(InMemory(made), batch_size=2, cutoff=3.0)
    assert "'cell' and 'pbc'" in loader.reason
    assert next(iter(loader)).edge_shift.any()


def test_cells_are_not_forgotten() -> None:
    """PyG drops, without a word, what the first molecule of a batch has not."""
    made = [random_molecule(3, seed=i) for i in range(4)]
    made[3].cell = 3.0 * torch.eye(3, dtype=torch.float64).unsqueeze(0)
    loader = MoleculeLoader(made, batch_size=2)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ValueError, match=r"'cell' .* \(molecule 0 of the batch\): .*zeros"):
        next(batches)
