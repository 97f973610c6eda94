"""Neighbours by sorted cells, against vesin, ASE and all pairs; how often a GPU is waited for."""

import importlib.util
import math
import sys

import pytest
import torch
from molecules import small_model
from torch import Tensor
from torch_geometric.data import Data
from waits import Waits

import pyg_schnet.graph.cells
from pyg_schnet import RadiusGraph, ops, radius_graph
from pyg_schnet.graph import NeighborList

DENSITY = 0.1  # atoms per cubic angstrom, as in water

FAST = [
    "cells",
    pytest.param(
        "nvalchemi",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("nvalchemiops") is None,
            reason="nvalchemi-toolkit-ops is not installed",
        ),
    ),
]


def fluid(num_atoms: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
    """Positions, about a third of them outside of the cell, and a triclinic cell."""
    generator = torch.Generator().manual_seed(seed)
    side = (num_atoms / DENSITY) ** (1 / 3)
    cell = side * torch.tensor([[1.0, 0, 0], [0.3, 1, 0], [-0.2, 0.1, 1]], dtype=torch.float64)
    fractional = torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64)
    fractional += torch.randint(-1, 2, (num_atoms, 1), generator=generator) * torch.eye(3)[0]
    return (fractional @ cell).to(dtype), cell.to(dtype)


def same(found: tuple[Tensor, ...] | Tensor, expected: tuple[Tensor, ...] | Tensor) -> bool:
    if isinstance(found, Tensor):
        return torch.equal(found, expected)
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", FAST)
def test_twenty_thousand_atoms_of_a_fluid(backend):
    pos, cell = fluid(20_000)
    expected = radius_graph(pos, 4.0, cell=cell, backend="vesin")
    # The number that the density implies, but for chance.
    mean = expected[0].size(1) / len(pos)
    assert mean == pytest.approx(4 / 3 * math.pi * 4.0**3 * DENSITY, rel=0.02)
    assert same(radius_graph(pos, 4.0, cell=cell, backend=backend), expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("directions", ["xy", "z", ""])
def test_open_directions(directions, backend):
    pos, cell = fluid(2000, torch.float64)
    pbc = torch.tensor([axis in directions for axis in "xyz"])
    expected = radius_graph(pos, 4.0, None, cell, pbc, backend="vesin")
    assert same(radius_graph(pos, 4.0, None, cell, pbc, backend=backend), expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_all_sizes_and_kinds(dtype, backend):
    sizes = [1, 700, 0, 3, 150, 40]
    parts = [fluid(max(size, 1), dtype, seed) for seed, size in enumerate(sizes)]
    pos = torch.cat([part[0][:size] for part, size in zip(parts, sizes)])
    cells = torch.stack([part[1] for part in parts])
    pbc = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    batch = torch.arange(6).repeat_interleave(torch.tensor(sizes))
    expected = radius_graph(pos, 5.0, batch, cells, pbc, backend="torch")
    assert same(radius_graph(pos, 5.0, batch, cells, pbc, backend=backend), expected)
    expected = radius_graph(pos, 5.0, batch, backend="torch")
    assert same(radius_graph(pos, 5.0, batch, backend=backend), expected)
    assert same(radius_graph(pos, 5.0, batch.int(), backend=backend), expected)


@pytest.mark.parametrize("backend", FAST)
def test_atoms_far_away(backend):
    pos, cell = fluid(300)
    pos += torch.tensor([-40.0, 900.0, 250.0])
    expected = radius_graph(pos, 4.0, cell=cell, backend="torch")
    assert same(radius_graph(pos, 4.0, cell=cell, backend=backend), expected)


def test_empty_space_costs_nothing_and_loses_nothing():
    pos, _ = fluid(300, torch.float64)
    for far in (1e3, 1e6, 1e9, 1e13, 1e140, 1e153):
        both = torch.cat([pos, pos[:50] + far, pos[:50] - far])
        expected = radius_graph(both, 4.0, backend="torch")
        assert same(radius_graph(both, 4.0, backend="cells"), expected)


@pytest.mark.parametrize("shape", [(1, 1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
def test_flat_straight_and_coincident_atoms(shape):
    pos = fluid(200)[0] * torch.tensor(shape)
    expected = radius_graph(pos, 1.0, backend="torch")
    assert same(radius_graph(pos, 1.0, backend="cells"), expected)


def test_no_pair_is_lost_to_rounding_far_from_the_origin():
    # Exactly representable distances, just within the radius and just not.
    line = torch.arange(40, dtype=torch.float64).unsqueeze(1) * torch.tensor([[2.0, 0, 0]])
    pos = 2.0**30 + line
    for r in (6.0, math.nextafter(6.0, 7.0)):
        expected = radius_graph(pos, r, backend="torch")
        assert same(radius_graph(pos, r, backend="cells"), expected)
    assert expected.size(1) == 2 * (39 + 38 + 37)


@pytest.mark.parametrize("backend", FAST)
def test_another_system_far_away_costs_no_precision(backend):
    pos, cell = fluid(200, torch.float64)
    far = torch.cat([torch.full((1, 3), 2.0**50, dtype=torch.float64), pos])
    batch = (torch.arange(201) > 0).long()
    alone, shifts = radius_graph(pos, 4.0, cell=cell, backend="torch")
    found = radius_graph(far, 4.0, batch, cell.repeat(2, 1, 1), backend=backend)
    assert same(found, (alone + 1, shifts))
    alone = radius_graph(pos, 4.0, backend="torch")
    assert same(radius_graph(far, 4.0, batch, backend=backend), alone + 1)


@pytest.mark.parametrize("limit", [1, 50, 1000])
def test_chunks_change_nothing(limit, monkeypatch):
    pos, cell = fluid(100)
    batch = torch.arange(100) // 60
    cells = torch.stack([cell, 0.7 * cell])
    whole = radius_graph(pos, 3.0, batch, cells, backend="cells")
    loose = radius_graph(pos, 3.0, batch, backend="cells")
    monkeypatch.setattr(pyg_schnet.graph.cells, "_MAX_CANDIDATES", limit)
    monkeypatch.setattr(pyg_schnet.graph.cells, "_ATOMS", 7)
    assert same(radius_graph(pos, 3.0, batch, cells, backend="cells"), whole)
    assert same(radius_graph(pos, 3.0, batch, backend="cells"), loose)


def test_candidates_are_about_twice_the_pairs(monkeypatch):
    """Linear in the number of atoms: all pairs would be a hundred times as many."""
    seen = []
    ranked = pyg_schnet.graph.cells.ranked

    def counting(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
        seen.append(total)
        return ranked(counts, total)

    monkeypatch.setattr(pyg_schnet.graph.cells, "ranked", counting)
    pos, cell = fluid(5000)
    edges, _ = radius_graph(pos, 5.0, cell=cell, backend="cells")
    assert edges.size(1) < sum(seen) < 2.1 * edges.size(1)


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("backend", ["torch", *FAST])
def test_energies_and_forces_of_a_box(backend, kernels):
    pos, cell = fluid(120, torch.float64)
    z = torch.tensor([8, 1, 1]).repeat(40)
    model = small_model(cutoff=3.0).double().eval()
    predictions = []
    with ops.backend(kernels):
        for name in ("vesin", backend):
            data = RadiusGraph(3.0, backend=name)(Data(z=z, pos=pos, cell=cell))
            predictions.append(model.predict(data))
    expected, found = predictions
    assert expected["forces"].abs().max() > 1e-3
    for name in ("energy", "forces"):
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("backend", ["vesin", "cells", "nvalchemi"])
def test_what_these_cannot_do(backend):
    with pytest.raises(ValueError, match=rf"'{backend}' needs three dimensions .*got 2 and 2.0"):
        radius_graph(torch.zeros(3, 2), 2.0, backend=backend)
    with pytest.raises(ValueError, match=r"finite 'r' \(got 3 and inf\)"):
        radius_graph(torch.zeros(3, 3), math.inf, backend=backend)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvalchemiops", None)
    monkeypatch.setitem(sys.modules, "nvalchemiops.torch.neighbors", None)
    with pytest.raises(ImportError, match=r"pip install pyg-schnet\[gpu\]"):
        radius_graph(torch.zeros(2, 3), 2.0, backend="nvalchemi")


def test_the_choice_on_a_gpu():
    """Small systems and crowded ones are left to all pairs, others go to the cells."""
    from pyg_schnet.graph.systems import _many

    box = fluid(20_000)[0]
    assert not _many(box[:2000], 5.0, None, None)
    assert _many(box, 5.0, None, None)
    assert not _many(box, 100.0, None, None)  # everything within reach
    assert not _many(box, 5.0, torch.arange(20_000) // 20, None)  # molecules


@pytest.mark.parametrize(
    ("periodic", "waits"),
    # Finite positions and candidates, pairs; then cells, periodic directions (twice), their
    # independence, neighbours to expect, images.
    [(False, 3), (True, 9)],
)
def test_how_often_the_host_waits(periodic, waits):
    pos, cell = fluid(500)
    with ops.backend("reference"), Waits() as seen:
        radius_graph(pos, 4.0, cell=cell if periodic else None, backend="cells")
    assert seen.count == waits


@pytest.mark.parametrize(("exact", "waits"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("kind", ["open", "fixed", "strained"])
def test_a_step_waits_once_and_once_for_the_pairs(kind, exact, waits):
    pos, cell = fluid(200)
    batch = torch.arange(200) // 100
    cells = None if kind == "open" else torch.stack([cell, cell])
    neighbor_list = NeighborList(3.0, skin=1.0, exact=exact)
    with ops.backend("reference"):
        for step in range(4):
            scale = 1.0 + 1e-4 * step if kind == "strained" else 1.0
            with Waits() as seen:
                if cells is None:
                    neighbor_list(pos + 0.01 * step, batch)
                else:
                    neighbor_list(scale * pos + 0.01 * step, batch, scale * cells)
    assert neighbor_list.builds == 1
    assert seen.count == waits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "torch", *FAST])
@pytest.mark.parametrize("periodic", [True, False])
def test_on_a_gpu(periodic, backend):
    pos, cell = fluid(6000)
    cells = cell if periodic else None
    expected = radius_graph(pos, 4.0, cell=cells, backend="vesin")
    on_gpu = None if cells is None else cells.cuda()
    found = radius_graph(pos.cuda(), 4.0, cell=on_gpu, backend=backend)
    found = found.cpu() if isinstance(found, Tensor) else tuple(part.cpu() for part in found)
    assert same(found, expected)
    neighbor_list = NeighborList(4.0, skin=1.0)
    for step in range(3):
        moved = pos + 0.05 * step
        kept = neighbor_list(moved.cuda(), cell=on_gpu)
        fresh = radius_graph(moved, 4.0, cell=cells)
        edges = kept if isinstance(kept, Tensor) else kept[0]
        assert torch.equal(edges.cpu(), fresh if isinstance(fresh, Tensor) else fresh[0])
    assert neighbor_list.builds == 1
