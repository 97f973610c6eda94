"""Periodic neighbour search against ASE, in cells where others have failed."""

import importlib.util
import math

import ase
import pytest
import torch
from ase.neighborlist import neighbor_list
from molecules import random_molecule
from torch import Tensor
from torch_geometric.data import Batch, Data

import pyg_schnet.graph.pairs
from pyg_schnet import RadiusGraph, edge_lengths, ops, radius_graph
from pyg_schnet.graph import edge_vectors

# That of NVIDIA is optional, and compiles its kernels for a minute when first used.
BACKENDS = [
    "torch",
    "cells",
    "vesin",
    pytest.param(
        "nvalchemi",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("nvalchemiops") is None,
            reason="nvalchemi-toolkit-ops is not installed",
        ),
    ),
]

# Name: lattice vectors, periodic directions, number of atoms, where they are (in the box of 5 A at
# this corner; one atom is at the corner), radius.
CELLS = {
    "cubic": ([[6, 0, 0], [0, 6, 0], [0, 0, 6]], "xyz", 8, 0, 2.5),
    "one atom": ([[2, 0, 0], [0, 2.1, 0], [0, 0, 2.3]], "xyz", 1, 0, 4.0),
    "smaller than the radius": ([[3, 0, 0], [0, 2.5, 0], [0, 0, 2]], "xyz", 3, 0, 6.0),
    "skewed": ([[5, 0, 0], [4.5, 2, 0], [-4, 7, 3]], "xyz", 5, 0, 4.0),
    "very skewed": ([[3, 0, 0], [13, 1.5, 0], [-17, 11, 3]], "xyz", 3, 0, 3.5),
    "left-handed": ([[0, 4, 0], [5, 0, 1], [0, 0, 6]], "xyz", 6, 0, 4.0),
    "flat": ([[40, 0, 0], [0, 30, 0], [3, 5, 0.9]], "xyz", 5, 0, 4.0),
    "needle": ([[50, 1, 0], [0, 1.1, 0], [0, 0.2, 1.3]], "xyz", 4, 0, 3.0),
    "rotated": ([[3, 3, 0.1], [-3, 3, 0.2], [0.3, -0.1, 4]], "xyz", 5, 0, 3.5),
    "atoms far outside": ([[4, 0, 0], [1, 4, 0], [0, 1, 4]], "xyz", 7, -30, 3.0),
    "slab": ([[4, 0, 0], [1, 4, 0], [0, 0, 20]], "xy", 8, 0, 4.0),
    "slab without a third vector": ([[4, 0, 0], [1, 4, 0], [0, 0, 0]], "xy", 8, 0, 4.0),
    "slab across y": ([[4, 0, 0], [0, 0, 0], [1, 2, 5]], "xz", 8, 0, 4.0),
    "slab with a tilted open vector": ([[4, 0, 0], [0, 4, 0], [9, 9, 1]], "xy", 8, 0, 4.0),
    "wire": ([[0, 0, 0], [0, 0, 0], [0.5, 0, 2]], "z", 6, 0, 5.0),
    "wire along y": ([[9, 0, 0], [1, 2, 1], [0, 0, 9]], "y", 6, 0, 5.0),
    "open": ([[4, 0, 0], [0, 4, 0], [0, 0, 4]], "", 8, 0, 3.0),
    "open without vectors": ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], "", 8, 0, 3.0),
}


def system(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, float]:
    """Positions, cell, periodic directions and radius."""
    vectors, directions, num_atoms, corner, r = CELLS[name]
    generator = torch.Generator().manual_seed(len(name))
    pos = 5.0 * torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64)
    pos[0] = 0.0
    pbc = torch.tensor([axis in directions for axis in "xyz"])
    return (pos + corner).to(dtype), torch.tensor(vectors, dtype=dtype), pbc, r


def rows(edge_index: Tensor, edge_shift: Tensor) -> list[tuple[int, ...]]:
    return sorted(tuple(row) for row in torch.cat([edge_index.T, edge_shift.long()], 1).tolist())


def ase_rows(pos: Tensor, cell: Tensor, pbc: Tensor, r: float) -> list[tuple[int, ...]]:
    atoms = ase.Atoms(
        f"H{len(pos)}", pos.double().numpy(), cell=cell.double().numpy(), pbc=pbc.numpy()
    )
    i, j, shift = neighbor_list("ijS", atoms, r)
    edges = torch.stack([torch.from_numpy(j), torch.from_numpy(i)])
    return rows(edges, torch.from_numpy(shift))


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CELLS)
def test_equals_ase(name, dtype, backend, kernels):
    pos, cell, pbc, r = system(name, dtype)
    with ops.backend(kernels):
        edge_index, edge_shift = radius_graph(pos, r, None, cell, pbc, backend=backend)
    assert edge_index.dtype == torch.long
    assert edge_shift.dtype == dtype
    assert rows(edge_index, edge_shift) == ase_rows(pos, cell, pbc, r)
    plain = radius_graph(pos, r, None, cell, pbc)
    assert torch.equal(edge_index, plain[0])  # the order too
    assert torch.equal(edge_shift, plain[1])


@pytest.mark.parametrize("name", CELLS)
def test_order_and_reverse_edges(name):
    pos, cell, pbc, r = system(name, torch.float32)
    edges, shifts = radius_graph(pos, r, None, cell, pbc)
    lengths = edge_lengths(pos, edges, shifts, cell)
    keys = list(zip(edges[1].tolist(), edges[0].tolist(), lengths.tolist()))
    assert keys == sorted(keys)
    assert rows(edges, shifts) == rows(edges.flip(0), -shifts)
    vectors = edge_vectors(pos, edges, shifts, cell)
    assert torch.equal(vectors.sort(dim=0)[0], -vectors.sort(dim=0, descending=True)[0])


def batch_of_cells(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, batch, cells and periodic directions of all systems above."""
    parts = [system(name, dtype) for name in CELLS]
    sizes = torch.tensor([len(pos) for pos, *_ in parts])
    pos, cell, pbc = (torch.cat([p[0] for p in parts]), *(
        torch.stack([p[k] for p in parts]) for k in (1, 2)
    ))  # fmt: skip
    return pos, torch.arange(len(parts)).repeat_interleave(sizes), cell, pbc


@pytest.mark.parametrize("limit", [10**6, 12, 6, 0])
@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_batch_of_periodic_and_open_systems(kernels, limit, monkeypatch):
    # The limit decides which systems go to vesin: none, some, most, all.
    monkeypatch.setattr(pyg_schnet.graph.systems, "_LARGE", limit)
    monkeypatch.setattr(pyg_schnet.graph.systems, "_FILLED", math.inf)
    pos, batch, cell, pbc = batch_of_cells()
    expected, shifts = [], []
    for k in range(len(cell)):
        edges, shift = radius_graph(pos[batch == k], 3.0, None, cell[k], pbc[k], backend="torch")
        expected.append(edges + int((batch < k).sum()))
        shifts.append(shift)
    with ops.backend(kernels):
        edge_index, edge_shift = radius_graph(pos, 3.0, batch, cell, pbc)
    assert torch.equal(edge_index, torch.cat(expected, dim=1))
    assert torch.equal(edge_shift, torch.cat(shifts))
    lengths = edge_lengths(pos, edge_index, edge_shift, cell, batch)
    assert lengths.max() < 3.0


def test_chunks_change_nothing(monkeypatch):
    pos, batch, cell, pbc = batch_of_cells()
    whole = radius_graph(pos, 3.0, batch, cell, pbc)
    for limit in (1, 300):
        monkeypatch.setattr(pyg_schnet.graph.pairs, "_MAX_CANDIDATES", limit)
        with ops.backend("reference"):
            chunks = radius_graph(pos, 3.0, batch, cell, pbc)
        assert all(torch.equal(a, b) for a, b in zip(chunks, whole))


def test_empty_systems():
    cell = 3.0 * torch.eye(3).expand(4, 3, 3)
    edges, shifts = radius_graph(torch.zeros(2, 3), 3.5, torch.tensor([1, 3]), cell)
    assert edges.tolist() == [[0] * 6 + [1] * 6] * 2
    assert shifts.abs().sum(dim=1).eq(1).all()
    edges, shifts = radius_graph(torch.zeros(0, 3), 3.5, None, cell[0])
    assert edges.shape == (2, 0)
    assert shifts.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_at_the_radius_are_left_out(dtype, backend):
    pos, cell = torch.zeros(1, 3, dtype=dtype), 3.0 * torch.eye(3, dtype=dtype)
    assert radius_graph(pos, 3.0, None, cell, backend=backend)[0].numel() == 0
    assert radius_graph(pos, math.nextafter(3.0, 4.0), None, cell, backend=backend)[0].size(1) == 6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spacing", [0.7, 1.1, 2.3])
def test_rounding_at_the_radius_is_that_of_the_distances(spacing, backend):
    # Many atoms at the very radius, give or take the rounding of float32.
    line = torch.arange(4) * spacing
    pos = torch.cartesian_prod(line, line, line) + 0.1  # float32
    cell = torch.eye(3) * float(torch.tensor(4 * spacing))
    r = 2 * spacing
    edges, shifts = radius_graph(pos, 1.01 * r, None, cell)
    vectors = edge_vectors(pos, edges, shifts, cell)
    inside = vectors.square().double().sum(dim=1) < r * r
    assert 0 < inside.sum() < (vectors.norm(dim=1) < 1.001 * r).sum()
    exact = radius_graph(pos, r, None, cell, backend=backend)
    assert rows(*exact) == rows(edges[:, inside], shifts[inside])


@pytest.mark.parametrize("directions", ["xyz", "xy", "z", ""])
def test_large_systems_equal_ase(directions):
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(1500, 3, generator=generator, dtype=torch.float64)
    cell = torch.tensor([[24.0, 0, 0], [3, 25, 0], [-2, 4, 26]], dtype=torch.float64)
    pbc = torch.tensor([axis in directions for axis in "xyz"])
    edges, shifts = radius_graph(pos @ cell, 3.5, None, cell, pbc)
    assert rows(edges, shifts) == ase_rows(pos @ cell, cell, pbc, 3.5)


def test_large_clusters_equal_all_pairs():
    generator = torch.Generator().manual_seed(0)
    pos = 30.0 * torch.rand(1500, 3, generator=generator)
    batch = (torch.arange(1500) >= 1000).long()  # a large and a small one
    for members in (None, batch):
        expected = radius_graph(pos, 4.0, members, backend="torch")
        assert torch.equal(radius_graph(pos, 4.0, members), expected)
        with ops.backend("reference"):
            assert torch.equal(radius_graph(pos, 4.0, members), expected)
    assert torch.equal(radius_graph(pos[:40], 9.0, backend="vesin"), radius_graph(pos[:40], 9.0))
    far = torch.cat([pos, pos + 1e6])  # an empty space that no grid could hold
    assert torch.equal(radius_graph(far, 4.0), radius_graph(far, 4.0, backend="torch"))


def test_max_num_neighbors_counts_images():
    pos, cell = torch.zeros(1, 3), torch.diag(torch.tensor([2.0, 3.0, 4.0]))
    with pytest.warns(UserWarning, match="an atom has up to 10") as caught:
        _, shifts = radius_graph(pos, 4.5, None, cell, torch.tensor([1, 1, 0]) > 0, 2)
    assert shifts.tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert caught[0].filename == __file__
    pair = torch.tensor([[0.0, 0, 0], [2.9, 0, 0]])  # nearest across the border
    with pytest.warns(UserWarning, match="drops neighbours"):
        edges, shifts = radius_graph(pair, 3.5, None, 3.0 * torch.eye(3), True, 1)
    assert rows(edges, shifts) == [(0, 1, 1, 0, 0), (1, 0, -1, 0, 0)]


def cell(*diagonal: float) -> Tensor:
    return torch.diag(torch.tensor(diagonal, dtype=torch.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cell=None, pbc=True), "no 'cell'"),
        (dict(cell=None, pbc=torch.tensor([[True, False, False]])), "no 'cell'"),
        (dict(cell=cell(3, 3)), r"\[3, 3\], or \[B, 3, 3\].*\(got \[2, 2\]\)"),
        (dict(cell=torch.eye(3).repeat(2, 1)), r"store it as \[1, 3, 3\].*\(got \[6, 3\]\)"),
        (dict(cell=torch.eye(3).expand(2, 3, 3)), "2 cells need 'batch'"),
        (dict(batch=torch.tensor([0, 0, 1])), "got 1 cells for 2 systems"),
        (dict(cell=cell(3, 3, math.nan)), "must be finite .* for system 0"),
        (dict(cell=cell(3, math.inf, 3)), "must be finite"),
        (dict(cell=cell(3, 3, 0)), "linearly dependent or zero .* set 'pbc' to False"),
        (dict(cell=torch.ones(3, 3)), "linearly dependent"),
        (dict(cell=cell(3, 0, 3), pbc=torch.tensor([False, True, False])), "linearly dependent"),
        (dict(pbc=torch.tensor([True, False])), r"\[3\] or \[1, 3\] \(got \[2\]\)"),
        (dict(pbc=torch.tensor([True, False, True]).expand(2, 3)), r"\(got \[2, 3\]\)"),
        (dict(r=math.inf), "infinitely many"),
        (dict(r=-1.0), "'r' must be positive"),
        (dict(cell=cell(0.01, 0.01, 0.01)), "in the same unit"),
        (dict(pos=torch.eye(3).repeat(300, 1), cell=cell(0.2, 0.2, 0.2)), "in the same unit"),
        (dict(pos=1e7 * torch.eye(3)), "wrap them into the cell, or use float64"),
        (dict(pos=1e18 * torch.eye(3).double()), "wrap them"),
        (dict(pos=torch.tensor([[0.0, math.nan, 0.0]])), "must be finite"),
        (dict(pos=torch.zeros(3, 2)), r"need 'pos' of shape \[N, 3\]"),
        (dict(batch=torch.tensor([0, 1, 0])), "sorted"),
        (dict(backend="torch-cluster"), "no periodic cells"),
        (dict(backend="cuda"), "'backend' must be"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        radius_graph(**(dict(pos=torch.eye(3), r=2.0, cell=cell(3, 3, 3)) | arguments))


def test_wrong_kinds_of_numbers():
    with pytest.raises(TypeError, match="'pbc' must hold bools"):
        radius_graph(torch.eye(3), 2.0, None, cell(3, 3, 3), torch.tensor([1, 0, 1]))
    with pytest.raises(TypeError, match=r"'cell' must be a tensor \(got list\)"):
        radius_graph(torch.eye(3), 2.0, None, torch.eye(3).tolist())
    with pytest.raises(TypeError, match="'cell' must hold floating-point"):
        radius_graph(torch.eye(3), 2.0, None, torch.eye(3).long())
    with pytest.raises(ValueError, match="three dimensions and a finite 'r'"):
        radius_graph(torch.zeros(3, 2), 2.0, backend="vesin")


def test_systems_of_a_batch_may_be_far_apart():
    """What rounding does to one of them is no matter of where the others are."""
    pos, box = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), cell(3, 3, 3)
    alone, shifts = radius_graph(pos, 2.0, None, box)
    batch = torch.tensor([0] * 4 + [1, 3])
    far = torch.cat([pos, torch.tensor([[1e7, 0.0, 0.0], [-1e7, 0.0, 0.0]])])
    edges, all_shifts = radius_graph(far, 2.0, batch, box.expand(4, 3, 3))
    assert torch.equal(edges, alone)
    assert torch.equal(all_shifts, shifts)


def test_an_empty_system_behind_a_large_one(monkeypatch):
    monkeypatch.setattr(pyg_schnet.graph.systems, "_LARGE", 4)
    monkeypatch.setattr(pyg_schnet.graph.systems, "_FILLED", math.inf)
    pos = 2.0 * torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    cells = torch.stack([cell(3, 3, 3), cell(9, 9, 9), cell(2, 3, 4)])
    edges, shifts = radius_graph(pos, 2.5, torch.tensor([0, 0, 0, 0, 0, 2, 2]), cells)
    last, last_shifts = radius_graph(pos[5:], 2.5, None, cells[2])
    assert torch.equal(edges[:, edges[1] >= 5], last + 5)
    assert torch.equal(shifts[edges[1] >= 5], last_shifts)


def test_infinite_radius_is_fine_where_nothing_is_periodic():
    edges, shifts = radius_graph(torch.eye(3), math.inf, None, cell(3, 3, 3), False)
    assert edges.size(1) == 6
    assert not shifts.any()


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives_by_positions_and_cells(check):
    names = ("skewed", "slab", "one atom")
    parts = [system(name) for name in names]
    pos = torch.cat([part[0][:2] for part in parts])
    cells = torch.stack([part[1] for part in parts])
    pbc = torch.stack([part[2] for part in parts])
    batch = torch.tensor([0, 0, 1, 1, 2])
    edges, shifts = radius_graph(pos, 3.0, batch, cells, pbc)
    assert edges.size(1) > 10
    assert check(
        lambda p, c: edge_lengths(p, edges, shifts, c, batch),
        (pos.requires_grad_(), cells.requires_grad_()),
    )
    pos, cells = (tensor.detach()[:k].requires_grad_() for tensor, k in ((pos, 2), (cells, 1)))
    edges, shifts = radius_graph(pos, 3.0, None, cells[0])
    assert check(lambda p, c: edge_lengths(p, edges, shifts, c), (pos, cells))


def test_derivatives_are_finite_where_an_image_meets_an_atom():
    pos = torch.tensor([[0.0, 0, 0], [3, 0, 0]], dtype=torch.float64, requires_grad=True)
    vectors = (3.0 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    length = edge_lengths(
        pos, torch.tensor([[1], [0]]), torch.tensor([[-1.0, 0, 0]], dtype=torch.float64), vectors
    )
    first = torch.autograd.grad(length.sum(), (pos, vectors), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (pos, vectors))
    assert length.item() == 0
    assert not any(g.any() for g in (*first, *second))


def test_edge_vectors_say_what_is_missing():
    pos, edges, shift = torch.zeros(2, 3), torch.tensor([[0], [1]]), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="'cell' needs 'edge_shift'"):
        edge_vectors(pos, edges, cell=torch.eye(3))
    with pytest.raises(ValueError, match="'edge_shift' needs 'cell'"):
        edge_lengths(pos, edges, shift)
    with pytest.raises(ValueError, match=r"shape \[1, 3\], a row per edge \(got \[2, 3\]\)"):
        edge_lengths(pos, edges, torch.zeros(2, 3), torch.eye(3))
    with pytest.raises(ValueError, match="2 cells need 'batch'"):
        edge_lengths(pos, edges, shift, torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ValueError, match=r"\[3, 3\] or \[B, 3, 3\]"):
        edge_lengths(pos, edges, shift, torch.eye(3)[0])


def test_transform_on_systems_and_their_batch():
    data = []
    for name in CELLS:
        pos, vectors, pbc, _ = system(name)
        data.append(Data(z=torch.ones(len(pos), dtype=torch.long), pos=pos, cell=vectors, pbc=pbc))
    each = Batch.from_data_list([RadiusGraph(3.0)(item.clone()) for item in data])
    assert each.cell.shape == (len(data), 3, 3)
    assert each.pbc.shape == (len(data), 3)
    edges, shifts = radius_graph(each.pos, 3.0, each.batch, each.cell, each.pbc)
    assert torch.equal(each.edge_index, edges)
    assert torch.equal(each.edge_shift, shifts)
    lengths = edge_lengths(each.pos, edges, shifts, each.cell, each.batch)
    assert torch.equal(each.edge_weight, lengths)
    assert torch.equal(each.cutoff, torch.full((len(data),), 3.0))
    bare = each.clone()
    del bare.edge_index, bare.edge_weight, bare.edge_shift, bare.cutoff
    again = RadiusGraph(3.0)(bare)
    for name in ("edge_index", "edge_shift", "edge_weight", "cutoff"):
        assert torch.equal(again[name], each[name])


def test_transform_needs_a_cell_where_data_are_periodic():
    molecule = random_molecule(4)
    molecule.pbc = torch.tensor([[False, False, False]])
    assert "edge_shift" not in RadiusGraph(3.0)(molecule.clone())
    molecule.pbc = torch.tensor([[True, False, False]])
    with pytest.raises(ValueError, match="no 'cell'"):
        RadiusGraph(3.0)(molecule)
