import math
import subprocess
import sys

import ase
import pytest
import torch
from ase.neighborlist import neighbor_list
from molecules import random_molecule
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

import pyg_schnet.graph.pairs
from pyg_schnet import RadiusGraph, edge_lengths, ops, radius_graph


def ase_edges(pos: torch.Tensor, r: float) -> torch.Tensor:
    i, j = neighbor_list("ij", ase.Atoms(f"H{len(pos)}", positions=pos.numpy()), r)
    edges = torch.stack([torch.from_numpy(j), torch.from_numpy(i)])
    return edges[:, (edges[1] * len(pos) + edges[0]).argsort()]


@pytest.mark.parametrize("r", [0.5, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("num_atoms", [1, 2, 17, 60])
def test_equals_ase(num_atoms, r):
    pos = random_molecule(num_atoms, seed=num_atoms).pos
    assert torch.equal(radius_graph(pos, r), ase_edges(pos, r))


def test_pairs_at_the_radius_are_left_out_as_in_ase():
    pos = torch.tensor([[0.0, 0, 0], [3.0, 4.0, 0]], dtype=torch.float64)
    assert ase_edges(pos, 5.0).numel() == radius_graph(pos, 5.0).numel() == 0
    assert radius_graph(pos, math.nextafter(5.0, 6.0)).size(1) == 2


def test_batch_equals_molecules_one_by_one(batch):
    expected = [
        radius_graph(batch[k].pos, 3.0) + int(batch.ptr[k]) for k in range(batch.num_graphs)
    ]
    assert torch.equal(radius_graph(batch.pos, 3.0, batch.batch), torch.cat(expected, dim=1))


def test_empty_molecules_in_between():
    pos = torch.tensor([[0.0], [1.0], [0.5]])
    edges = radius_graph(pos, 5.0, torch.tensor([1, 1, 4]))
    assert edges.tolist() == [[1, 0], [0, 1]]
    assert radius_graph(torch.empty(0, 3), 5.0).shape == (2, 0)


def test_never_truncates():
    pos = random_molecule(60).pos  # PyG's default keeps 32 neighbours
    assert radius_graph(pos, math.inf).size(1) == 60 * 59


def test_chunks_change_nothing(monkeypatch, batch):
    whole = radius_graph(batch.pos, 3.0, batch.batch)
    for limit in (1, 7, 20):
        monkeypatch.setattr(pyg_schnet.graph.pairs, "_MAX_CANDIDATES", limit)
        with ops.backend("reference"):
            assert torch.equal(radius_graph(batch.pos, 3.0, batch.batch), whole)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_any_dimension(dimension):
    pos = torch.randn(12, dimension, generator=torch.Generator().manual_seed(1))
    edges = radius_graph(pos, 1.0)
    dense = (torch.cdist(pos, pos) < 1.0).fill_diagonal_(False).nonzero().T.flip(0)
    assert torch.equal(edges, dense)


def test_torch_cluster_gives_the_same_edges(batch):
    pytest.importorskip("torch_cluster", reason="torch-cluster is not installed")
    for r in (1.5, 3.0, 50.0):
        ours = radius_graph(batch.pos, r, batch.batch)
        assert torch.equal(radius_graph(batch.pos, r, batch.batch, backend="torch-cluster"), ours)


def test_max_num_neighbors_keeps_the_nearest_and_warns():
    pos = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    with pytest.warns(UserWarning, match="drops neighbours"):
        edges = radius_graph(pos, 10.0, max_num_neighbors=2)
    nearest = {0: [1, 2], 1: [0, 2], 2: [0, 1], 3: [1, 2]}
    assert edges.T.tolist() == [[j, i] for i in range(4) for j in nearest[i]]
    assert radius_graph(pos, 10.0, max_num_neighbors=3).size(1) == 12  # nothing to warn about


def test_short_numbers_far_from_the_origin():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    far = (pos + 128).half()
    assert radius_graph(far, 2.0).tolist() == radius_graph(pos, 2.0).tolist()
    with pytest.raises(ValueError, match="must be finite"):
        radius_graph(far * 1e4, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(pos=torch.zeros(3)), r"shape \[N, D\] \(got \[3\]\)"),
        (
            dict(pos=torch.tensor([[0.0, 1], [math.nan, 0]])),
            r"finite \(got \[nan, 0.0\] for atom 1",
        ),
        (dict(pos=torch.tensor([[math.inf, 0.0]])), "finite"),
        (dict(pos=torch.tensor([[0.0, 1.0], [0.0, -1e19]])), r"below 6.5e\+18 A.* for atom 1"),
        (
            dict(pos=torch.tensor([[1e200, 0.0]], dtype=torch.double)),
            r"below .* \(got \[1e\+200, 0.0\]",
        ),
        (dict(r=0.0), "'r' must be positive"),
        (dict(batch=torch.tensor([0, 1, 0])), "'batch' must be sorted"),
        (dict(batch=torch.tensor([0, 1])), "one entry per atom"),
        (dict(batch=torch.tensor([-1, 0, 0])), "must not be negative"),
        (dict(backend="cuda"), "'backend' must be"),
        (dict(max_num_neighbors=0), "at least 1"),
        (dict(max_num_neighbors=1.5), r"a whole number of at least 1 \(got 1.5\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        radius_graph(**(dict(pos=torch.eye(3), r=2.0) | arguments))


def test_edge_lengths_have_finite_derivatives_at_zero():
    pos = torch.tensor([[1.0, 1, 1], [1, 1, 1]], dtype=torch.float64, requires_grad=True)
    length = edge_lengths(pos, torch.tensor([[0], [1]]))
    (gradient,) = torch.autograd.grad(length.sum(), pos, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), pos)
    assert length.item() == 0
    assert not gradient.any()
    assert not second.any()


def test_edge_lengths_gradgradcheck():
    pos = random_molecule(4).pos.requires_grad_()
    edges = radius_graph(pos, 10.0)
    assert torch.autograd.gradgradcheck(lambda p: edge_lengths(p, edges), pos)


def test_transform_on_molecule_and_batch(batch):
    single = RadiusGraph(3.0)(batch[2].clone())
    assert torch.equal(single.edge_index, radius_graph(single.pos, 3.0))
    j, i = single.edge_index
    assert torch.allclose(single.edge_weight, (single.pos[j] - single.pos[i]).norm(dim=1))
    whole = RadiusGraph(3.0)(batch.clone())
    each = Batch.from_data_list([RadiusGraph(3.0)(data) for data in batch.to_data_list()])
    for name in ("edge_index", "edge_weight", "cutoff"):
        assert torch.equal(whole[name], each[name])


def test_transform_leaves_no_bonds_behind():
    data = random_molecule(4)
    data.edge_index, data.edge_attr = torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 3)
    with pytest.raises(ValueError, match="bonds belong in 'bond_index'"):
        RadiusGraph(3.0)(data)
    with pytest.raises(ValueError, match="'r' must be positive"):
        RadiusGraph(-1.0)
    with pytest.raises(TypeError, match="floating-point"):
        radius_graph(torch.zeros(2, 3, dtype=torch.long), 2.0)
    with pytest.raises(TypeError, match=r"'pos' must be a tensor \(got ndarray\)"):
        radius_graph(torch.zeros(2, 3).numpy(), 2.0)
    for dtype in (torch.uint8, torch.bool, torch.float32):  # of uint8, no difference is negative
        with pytest.raises(TypeError, match=f"'batch' must hold integers.*{dtype}"):
            radius_graph(torch.eye(3), 2.0, torch.tensor([1, 0, 1]).to(dtype))
    shorter = radius_graph(torch.eye(3), 2.0, torch.tensor([0, 0, 1], dtype=torch.int32))
    assert torch.equal(shorter, radius_graph(torch.eye(3), 2.0, torch.tensor([0, 0, 1])))


def test_truncated_edges_do_not_claim_to_be_complete():
    data = random_molecule(8)
    assert "cutoff" in RadiusGraph(4.0, max_num_neighbors=20)(data.clone())
    with pytest.warns(UserWarning, match="drops neighbours"):
        assert "cutoff" not in RadiusGraph(4.0, max_num_neighbors=2)(data.clone())
    with pytest.warns(UserWarning, match="drops neighbours"):  # nor do those that replace others
        assert "cutoff" not in RadiusGraph(4.0, max_num_neighbors=2)(RadiusGraph(4.0)(data))


def test_transform_leaves_no_images_behind():
    data = random_molecule(4)
    data.cell = 3.0 * torch.eye(3, dtype=torch.float64)
    periodic = RadiusGraph(4.0)(data)
    del periodic.cell, periodic.pbc
    assert "edge_shift" not in RadiusGraph(4.0)(periodic)


def test_plain_torch_gives_the_same_edges(batch):
    kernel = radius_graph(batch.pos, 3.0, batch.batch)
    with ops.backend("reference"):
        assert torch.equal(radius_graph(batch.pos, 3.0, batch.batch), kernel)


def test_transform_composes_and_says_what_is_missing():
    assert "RadiusGraph(r=3.0)" in repr(Compose([RadiusGraph(3.0)]))
    with pytest.raises(ValueError, match=r"data.pos"):
        RadiusGraph(3.0)(Data(z=torch.tensor([1])))


@pytest.mark.parametrize("backend", ["auto", "torch", "vesin"])
def test_radii_next_to_nothing(backend):
    """Vesin refuses them; there is no neighbour, or one that is nearer still."""
    pos = torch.rand(400, 3, dtype=torch.float64)
    pos[7] = pos[5] + torch.tensor([1e-12, 0.0, 0.0])
    assert radius_graph(pos, 1e-300, backend=backend).numel() == 0
    assert radius_graph(pos, 1e-11, backend=backend).tolist() == [[7, 5], [5, 7]]


# Vesin 0.6 divides by zero on these, which ends the process: a wide sheet, a thread, an atom that
# flew off.
THIN = """
import torch
from pyg_schnet import radius_graph
torch.manual_seed(0)
for extent, periodic in (
    ((900.0, 900.0, 1.0), (True, True, False)),
    ((1e6, 3.0, 3.0), (False, False, False)),
    ((3.0, 2e6, 4.0), (False, True, False)),
    ((4.0, 4.0, 1e8), (False, False, False)),
    ((9.0, 9.0, 1e30), (False, False, False)),
):
    pos = torch.rand(400, 3, dtype=torch.float64) * torch.tensor(extent).double()
    pos[:100] = pos[100:200] + 0.5  # neighbours
    pos[0, 0] = extent[0]
    arguments = {"r": 1.5, "cell": torch.diag(torch.tensor(extent)), "pbc": torch.tensor(periodic)}
    if not any(periodic):
        arguments = {"r": 1.5}
    found = [radius_graph(pos, **arguments, backend=name) for name in ("torch", "vesin", "auto")]
    for other in found[1:]:
        for one, two in zip(found[0], other):
            assert torch.equal(one, two), extent
    print(len(found[0][0] if any(periodic) else found[0].T))
"""


def test_thin_and_torn_systems():
    done = subprocess.run([sys.executable, "-c", THIN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 5
