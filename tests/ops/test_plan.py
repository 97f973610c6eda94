"""Edge plans: order, reverse edges, blocks, checks; kernels against plain PyTorch."""

import math

import pytest
import torch
from waits import Waits

from pyg_schnet import ops
from pyg_schnet.ops import EdgePlan, Knots
from pyg_schnet.ops.geometry import are_sound, forces_from_distances

from .conftest import assert_close, molecules


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_plan_holds_the_users_edges_in_order(make_case, backend):
    case = make_case(torch.float32)
    with ops.backend(backend):
        plan = case.plan()
    assert torch.equal(plan.arrange(case.edge_index[0]), plan.source.long())
    assert torch.equal(plan.arrange(case.edge_index[1]), plan.target.long())
    key = plan.target.long() * max(plan.num_src, 1) + plan.source
    assert (key.diff() >= 0).all()
    degree = torch.bincount(plan.target, minlength=plan.num_dst)
    assert torch.equal(plan.rowptr.long().diff(), degree)


def test_both_builders_agree(make_case):
    case = make_case(torch.float64)
    fast = case.plan()
    with ops.backend("reference"):
        plain = case.plan()
    for name in ("source", "target", "rowptr", "permutation", "reverse"):
        a, b = getattr(fast, name), getattr(plain, name)
        assert (a is None) == (b is None), name
        assert a is None or torch.equal(a, b), name
    for a, b in zip(fast.transposed(), plain.transposed()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_reverse_edges(backend):
    case = molecules([5, 1, 9], torch.float64)
    shuffle = torch.randperm(case.distances.numel(), generator=torch.Generator().manual_seed(0))
    with ops.backend(backend):
        plan = EdgePlan.build(case.edge_index[:, shuffle], 15, case.distances[shuffle])
    assert plan.symmetric
    reverse = plan.reverse.long()
    distances = plan.arrange(case.distances[shuffle])
    assert torch.equal(plan.source[reverse], plan.target)
    assert torch.equal(distances[reverse], distances)
    assert torch.equal(reverse[reverse], torch.arange(reverse.numel()))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_periodic_images_are_matched_by_distance(backend):
    # Two images of one neighbour and two of the atom itself, listed in another order on the way
    # back.
    edge_index = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]])
    distances = torch.tensor([1.0, 2.0, 3.0, 3.0, 2.0, 1.0])
    with ops.backend(backend):
        plan = EdgePlan.build(edge_index, 2, distances)
    assert plan.symmetric
    arranged = plan.arrange(distances)
    assert torch.equal(arranged[plan.reverse.long()], arranged)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_symmetry_is_never_assumed(backend):
    case = molecules([6], torch.float32)
    with ops.backend(backend):
        other = case.distances.clone()
        other[0] *= 1.001
        assert not EdgePlan.build(case.edge_index, 6, other).symmetric
        assert not EdgePlan.build(case.edge_index[:, 1:], 6, case.distances[1:]).symmetric
        assert not EdgePlan.build(case.edge_index, 6).symmetric
        assert EdgePlan.build(case.edge_index, 6, case.distances).symmetric


def test_blocks_do_not_cut_molecules():
    sizes = [18] * 150 + [1] * 5
    plan = molecules(sizes, torch.float32).plan()
    assert plan.symmetric
    blocks = plan.blocks.long()
    assert blocks[0] == 0
    assert blocks[-1] == plan.num_dst
    assert (blocks.diff() >= 0).all()
    block = torch.bucketize(torch.arange(plan.num_dst), blocks, right=True)
    assert torch.equal(block[plan.source.long()], block[plan.target.long()])
    edges = plan.rowptr.long()[blocks].diff()
    assert edges.max() < 2.5 * plan.num_edges / 64 + 18 * 17


def test_one_large_molecule_is_not_left_to_one_thread():
    plan = molecules([400], torch.float32, cutoff=9.0).plan()
    edges = plan.rowptr.long()[plan.blocks.long()].diff()
    assert 4096 < edges.max() < plan.num_edges / 8


def test_by_knot_is_sorted_and_complete():
    for case in (molecules([9, 12], torch.float64), molecules([300], torch.float64)):
        plan = case.plan()
        distances = plan.arrange(case.distances)
        order = plan.by_knot(distances).long()
        knot = (distances[order] / plan.knots.spacing).long()
        assert (knot.diff() >= 0).all()
        if plan.symmetric:
            assert (plan.source[order] < plan.target[order]).all()
            order = torch.cat([order, plan.reverse[order].long()])
        assert torch.equal(order.sort().values, torch.arange(plan.num_edges))
        assert plan.by_knot(distances) is plan.by_knot(distances)


def test_undirected_pairs():
    case = molecules([5, 8], torch.float64)
    shuffle = torch.randperm(case.distances.numel(), generator=torch.Generator().manual_seed(0))
    distances = case.distances[shuffle]
    edges, pairs = EdgePlan.build(case.edge_index[:, shuffle], 13, distances).undirected()
    assert edges.numel() == distances.numel() // 2
    assert torch.equal(distances[edges][pairs], distances)
    with pytest.raises(ValueError, match="symmetric"):
        EdgePlan.build(case.edge_index, 13).undirected()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_range_is_checked(backend):
    edge_index = torch.tensor([[0, 1], [1, 0]])
    distances = torch.tensor([2.0, 2.0])
    with ops.backend(backend):
        EdgePlan.build(edge_index, 2, distances, Knots.spanning(0.5, 1.0))
        EdgePlan.build(edge_index, 2, distances, Knots.spanning(0.5, 2.0, vanishes=False))
        with pytest.raises(ValueError, match="beyond the range"):
            EdgePlan.build(edge_index, 2, distances, Knots.spanning(0.5, 1.0, vanishes=False))
        for factor in (math.nan, math.inf, -1.0):
            with pytest.raises(ValueError, match=r"finite and not negative \(got .* for edge 0"):
                EdgePlan.build(edge_index, 2, distances * factor, Knots.spanning(0.5, 3.0))
        plan = EdgePlan.build(
            edge_index, 2, torch.tensor([2.0, 0.1]), Knots.spanning(0.5, 3.0, start=0.5)
        )
    assert plan.short.tolist() == [1]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("edge", [[2, 0], [0, 2], [-1, 0], [0, -1]])
def test_indices_are_checked(backend, edge):
    with ops.backend(backend), pytest.raises(ValueError, match="edge_index"):
        EdgePlan.build(torch.tensor(edge).view(2, 1), 2, torch.tensor([1.0]))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="edge_index"):
        EdgePlan.build(torch.zeros(3, 2, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="distances"):
        EdgePlan.build(torch.zeros(2, 2, dtype=torch.long), 2, torch.zeros(3))
    with pytest.raises(ValueError, match="no knots"):
        EdgePlan.build(torch.zeros(2, 2, dtype=torch.long), 2).require_knots()


def images(num_atoms: int, copies: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges and distances of a symmetric graph with several images of each pair, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(num_atoms, num_atoms).repeat(1, copies)
    # Few different ones, so that some images are at the same distance.
    lengths = 1.0 + torch.randint(3, i.shape, generator=generator).double()
    edges = torch.stack([torch.cat([i, j]), torch.cat([j, i])])
    shuffle = torch.randperm(2 * i.numel(), generator=generator)
    return edges[:, shuffle], lengths.repeat(2)[shuffle]


@pytest.mark.parametrize("change", ["none", "a distance", "an edge", "an edge twice"])
@pytest.mark.parametrize("seed", range(3))
def test_both_builders_agree_on_images(seed, change):
    edges, distances = images(7, 4, seed)
    e = int((edges[0] != edges[1]).nonzero()[0])  # a loop is its own reverse
    others = torch.arange(distances.numel()) != e
    if change == "a distance":
        distances[e] += 0.25
    if change == "an edge":
        edges, distances = edges[:, others], distances[others]
    if change == "an edge twice":
        edges = torch.cat([edges, edges[:, e : e + 1]], dim=1)
        distances = torch.cat([distances, distances[e : e + 1]])
    fast = EdgePlan.build(edges, 7, distances)
    with ops.backend("reference"):
        plain = EdgePlan.build(edges, 7, distances)
    assert plain.symmetric == fast.symmetric == (change == "none")
    assert plain.extent == fast.extent
    for name in ("source", "target", "rowptr", "permutation"):
        assert torch.equal(getattr(fast, name), getattr(plain, name)), name
    if fast.symmetric:
        assert torch.equal(fast.reverse, plain.reverse)


@pytest.mark.parametrize("shuffled", [False, True])
def test_how_often_a_gpu_is_waited_for(shuffled):
    case = molecules([5, 1, 9], torch.float32)
    edges, distances = case.edge_index, case.distances
    if shuffled:
        edges, distances = edges.flip(1), distances.flip(0)
    with ops.backend("reference"), Waits() as seen:
        plan = EdgePlan.build(edges, 15, distances, case.knots)
    assert plan.symmetric
    assert (plan.permutation is not None) == shuffled
    assert seen.count == 1 + shuffled


def test_a_plan_holds_what_int32_can_count():
    with pytest.raises(ValueError, match=r"fewer than 2\^31 - 1 .*\(got 0 edges of 2147483647"):
        EdgePlan.build(torch.zeros(2, 0, dtype=torch.long), 2**31 - 1)


def test_forces_add_up_alike(make_case):
    case = make_case(torch.float64)
    num_src, num_dst = case.num_nodes
    if num_src != num_dst:
        pytest.skip("forces are those on the atoms of one set")
    plan = case.plan()
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(plan.num_edges, generator=generator, dtype=torch.float64)
    vectors = torch.randn(plan.num_edges, 3, generator=generator, dtype=torch.float64)
    lengths = vectors.norm(dim=1)
    fast = forces_from_distances(slopes, vectors, lengths, plan)
    with ops.backend("reference"):
        plain = forces_from_distances(slopes, vectors, lengths, plan)
    assert_close(plain, fast)
    assert_close(plain.sum(dim=0), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])  # int32 has no kernel
def test_edges_between_molecules_are_noticed(kind):
    batch = torch.tensor([0, 0, 1, 1], dtype=kind)
    assert are_sound(torch.tensor([[0, 1, 2], [1, 0, 3]]), batch)
    for edge in ([0, 2], [3, 4], [-1, 3], [4, 4]):
        assert not are_sound(torch.tensor([[0, edge[0]], [1, edge[1]]]), batch)
    assert not are_sound(torch.zeros(2, 1, dtype=torch.long), batch[:0])
