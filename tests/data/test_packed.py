"""Packed batches against PyG's batches of the same molecules with a radius graph."""

import math

import numpy as np
import pytest
import torch
from molecules import random_molecule
from torch_geometric.data import Batch
from waits import Waits

from pyg_schnet import radius_graph
from pyg_schnet.data import packed as module
from pyg_schnet.data.packed import Capacity, PackedMolecules, UnpackableError
from pyg_schnet.ops import EdgePlan, Knots

SIZES = [5, 1, 9, 2, 12, 3]
KNOTS = Knots.spanning(0.3, 4.0)


def molecules(sizes=SIZES):
    return [random_molecule(size, seed=k, dtype=torch.float32) for k, size in enumerate(sizes)]


def packed(radius=4.0, sizes=SIZES, force=True) -> PackedMolecules:
    batch = Batch.from_data_list(molecules(sizes))
    energy = torch.arange(len(sizes), dtype=torch.float64)
    forces = 10.0 + batch.pos if force else None
    device = torch.device("cpu")
    counts = torch.tensor(sizes)
    return PackedMolecules(batch.z, batch.pos, counts, energy, forces, radius, device)


@pytest.mark.parametrize("radius", [2.0, 4.0, math.inf])
@pytest.mark.parametrize("chunk", [2, 4096])
@pytest.mark.parametrize("chosen", [[4, 0, 3], [1], [5, 1, 2, 0, 3, 4], [1, 3]])
def test_atoms_and_edges_of_a_batch(chosen, chunk, radius, monkeypatch):
    monkeypatch.setattr(module, "_MOLECULES_AT_ONCE", chunk)
    data = packed(radius)
    numbers = np.array(chosen)
    got = data.batch(torch.tensor(chosen), data.needed(numbers), KNOTS)
    expected = Batch.from_data_list([molecules()[number] for number in chosen])
    edges = radius_graph(expected.pos, radius, expected.batch)
    atoms, size = expected.num_nodes, len(chosen)
    assert torch.equal(got.z[:atoms], expected.z)
    assert torch.equal(got.pos[:atoms], expected.pos)
    assert torch.equal(got.molecule[:atoms], expected.batch)
    assert torch.equal(got.sizes[:size], expected.ptr.diff())
    assert torch.equal(got.energy[:size], torch.tensor(chosen).double())
    assert torch.equal(got.force[:atoms], 10.0 + expected.pos)
    assert int(got.is_edge.sum()) == edges.size(1)
    assert torch.equal(got.edge_index[:, got.is_edge].long(), edges)
    # Padding: marked as such, in order, and no atom has more of the edges than its share.
    assert not got.z[atoms:].any()
    assert (got.molecule[atoms:] == size).all()
    assert got.energy[size:].isnan().all()
    assert got.force[atoms:].isnan().all()
    source, target = got.edge_index[:, ~got.is_edge]
    assert torch.equal(source, target)
    assert (target >= atoms).all()
    spare = len(got.z) - atoms
    assert target.bincount().max() <= math.ceil(len(target) / spare)


@pytest.mark.parametrize("chosen", [[4, 0, 3], [1]])
def test_the_plan_is_that_of_its_edges(chosen):
    """As EdgePlan.build finds it, which compares lengths and looks for reverse edges."""
    data = packed()
    got = data.batch(torch.tensor(chosen), Capacity(48, 512), KNOTS)
    lengths = (got.pos[got.edge_index[0]] - got.pos[got.edge_index[1]]).norm(dim=1)
    expected = EdgePlan.build(got.edge_index.long()[:, got.is_edge], 48, lengths[got.is_edge])
    real = expected.num_edges
    assert torch.equal(got.plan.source[:real], expected.source)
    assert torch.equal(got.plan.reverse[:real], expected.reverse)
    assert torch.equal(got.plan.reverse[real:], torch.arange(real, 512, dtype=torch.int32))
    rows = torch.arange(48).repeat_interleave(got.plan.rowptr.long().diff())
    assert torch.equal(rows, got.plan.target.long())
    assert got.plan.mutual
    assert got.beyond > KNOTS.stop


def test_places_that_are_left_empty():
    """A last batch that is not full is filled with molecules that are none."""
    data = packed()
    capacity = Capacity(64, 512)
    full = data.batch(torch.tensor([4, 2]), capacity, KNOTS)
    part = data.batch(torch.tensor([4, 2, len(data), len(data)]), capacity, KNOTS)
    for name in ("z", "pos", "edge_index", "is_edge"):
        assert torch.equal(getattr(full, name), getattr(part, name))
    assert part.energy[2:].isnan().all()
    assert part.sizes.tolist() == [12, 9, 1, 1, 64 - 21]


def test_a_batch_never_asks_for_values():
    data = packed()
    numbers = torch.tensor([4, 0, 3])
    capacity = data.needed(numbers.numpy())
    with Waits() as waits:
        data.batch(numbers, capacity, KNOTS)
    assert waits.count == 0


def test_capacities_hold_most_batches():
    """Of random batches of molecules of many sizes; and all batches where all are alike."""
    sizes = np.random.default_rng(0).integers(3, 12, 300).tolist()
    data = packed(sizes=sizes, force=False)
    small, large = data.capacities(20)
    order = [np.random.default_rng(k).permutation(300)[:20] for k in range(400)]
    needed = [data.needed(numbers) for numbers in order]
    fits = [all(a <= b for a, b in zip(need, small)) for need in needed]
    assert 0.8 < sum(fits) / 400 < 0.99
    assert all(a <= b for need in needed for a, b in zip(need, large))
    same = packed(sizes=[4] * 10, radius=math.inf, force=False)
    assert same.capacities(5) == [same.needed(np.arange(5))]


def test_what_cannot_be_packed():
    batch = Batch.from_data_list(molecules())
    pos = batch.pos.clone()
    pos[1] = pos[0]
    sizes, energy = torch.tensor(SIZES), torch.zeros(len(SIZES)).double()
    with pytest.raises(UnpackableError, match="atoms are at the same place"):
        PackedMolecules(batch.z, pos, sizes, energy, None, 4.0, torch.device("cpu"))


def test_more_edges_than_a_device_should_keep(monkeypatch):
    monkeypatch.setattr(module, "_MAX_EDGES", 50)
    with pytest.raises(UnpackableError, match="the molecules have more than 50 edges"):
        packed(math.inf)
    packed(math.inf, sizes=[5, 5, 2])  # 42


def test_single_atoms_have_no_edges():
    data = packed(sizes=[1, 1, 1])
    got = data.batch(torch.tensor([2, 0]), data.needed(np.array([2, 0])), KNOTS)
    assert not got.is_edge.any()
    assert data.longest == 0.0
