"""The operator: its formula, its derivatives of all orders, backends and errors."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyg_schnet import ops
from pyg_schnet.ops import EdgePlan, Knots, cfconv, cpu, reference
from pyg_schnet.ops.dispatch import kernels_for
from pyg_schnet.ops.functions import Collect, Eager

from .conftest import (
    assert_close,
    assert_fused_match,
    assert_primitives_match,
    clamp_to_intervals,
    directed,
    molecules,
)

BACKENDS = ["reference", "cpu"]
SMALL = {
    "bipartite": lambda: directed(3, 5, 11, torch.float64),
    "asymmetric": lambda: directed(4, 4, 10, torch.float64),
    "molecules": lambda: molecules([3, 1, 3], torch.float64),
}


def leaves(case, width=3):
    x, g, table, weight = case.features(width)
    return [t.requires_grad_() for t in (x, g, table, weight)]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.backend(request.param):
        yield request.param


def test_formula_by_hand(backend):
    # One edge 1 -> 0 in the middle of an interval, where the splines are 1/48, 23/48, 23/48, 1/48.
    plan = EdgePlan.build(
        torch.tensor([[1], [0]]), 2, torch.tensor([0.75]), Knots.spanning(5.0, 2.0)
    )
    table = torch.arange(plan.knots.rows, dtype=torch.float32).view(-1, 1) ** 2
    x = torch.tensor([[10.0], [2.0]])
    out = cfconv(x, torch.tensor([0.75]), table, plan, torch.tensor([0.5]))
    W = (1 * 1 + 23 * 4 + 23 * 9 + 1 * 16) / 48
    torch.testing.assert_close(out, torch.tensor([[2.0 * W * 0.5], [0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 64, 100, 128])
def test_primitives_match_reference(make_case, dtype, width):
    case = make_case(dtype)
    variants = itertools.product(range(4), (False, True))
    assert_primitives_match(kernels_for(case.distances), case, width, variants)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 64, 100, 128])
def test_fused_sweeps_match_reference(make_case, dtype, width):
    case = make_case(dtype)
    assert_fused_match(kernels_for(case.distances), case, width)


# The few edges of the second are one to a run: only the runs are out of order.
@pytest.mark.parametrize("sizes", [[9, 12], [5]])
def test_other_distances_than_those_the_plan_has_sorted(sizes):
    case = molecules(sizes, torch.float64)
    plan = case.plan()
    x, g, table, s = case.features(8)
    first = plan.arrange(case.distances)
    for distances in (first, 3.0 - first, first):
        expected = reference.collect(g, x, distances, table.size(0), plan)
        assert_close(cpu.collect(g, x, distances, table.size(0), plan), expected)
        arguments = (g, x, x, s, distances, table.size(0), plan)
        assert_close(cpu.collect_backward(*arguments), reference.collect_backward(*arguments))


def test_kernels_check_what_they_read():
    case = molecules([5], torch.float32)
    plan = case.plan()
    x, g, table, _ = case.features(8)
    with pytest.raises(ValueError, match="features"):
        cpu.reduce(x[1:], case.distances, table, plan)
    with pytest.raises(ValueError, match="features"):
        cpu.product(g.double(), x, case.distances, table, plan)
    with pytest.raises(ValueError, match="per edge"):
        cpu.reduce(x, case.distances[1:], table, plan)
    with pytest.raises(ValueError, match="rows"):
        cpu.reduce(x, case.distances, table[1:], plan)


def test_orders_above_the_third_vanish(backend):
    case = directed(3, 5, 11, torch.float64)
    x, g, table, _ = case.features(3)
    plan = case.plan()
    distances = plan.arrange(case.distances)
    kernels = kernels_for(x)
    assert kernels.reduce(x, distances, table, plan, 4).abs().sum() == 0
    assert kernels.product(g, x, distances, table, plan, 4).abs().sum() == 0
    assert kernels.collect(g, x, distances, table.size(0), plan, 4).abs().sum() == 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["bipartite", "asymmetric"])
def test_gradients(backend, name, weighted):
    case = clamp_to_intervals(SMALL[name]())
    x, _, table, weight = leaves(case)
    distances = case.distances.clone().requires_grad_()
    plan = case.plan()
    inputs = (x, distances, table) + ((weight,) if weighted else ())

    def function(x, distances, table, weight=None):
        return cfconv(x, distances, table, plan, weight)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_gradients_on_a_symmetric_graph(backend):
    case = clamp_to_intervals(SMALL["molecules"]())
    plan = case.plan()
    assert plan.symmetric
    x, _, table, weight = leaves(case)
    edges, pairs = plan.undirected()
    # Perturbing one direction only would break the symmetry the plan has found.
    lengths = case.distances[edges].clone().requires_grad_()

    def function(x, lengths, table, weight=None):
        return cfconv(x, lengths[pairs], table, plan, weight)

    for inputs in ((x, lengths, table), (x, lengths, table, weight)):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", ["bipartite", "asymmetric"])
def test_gradients_of_primitives(backend, name, order):
    case = clamp_to_intervals(SMALL[name]())
    plan = case.plan()
    x, g, table, weight = leaves(case, width=2)
    distances = plan.arrange(case.distances).clone().requires_grad_()
    primitives = Eager(plan, kernels_for(x))
    rows = table.size(0)
    for function, inputs in (
        (lambda *t: primitives.reduce(*t, order, False), (x, distances, table, weight)),
        (lambda *t: primitives.reduce(*t, order, True), (g, distances, table, weight)),
        (lambda *t: primitives.product(*t, order), (g, x, distances, table)),
        (lambda *t: primitives.collect(*t, rows, order), (g, x, distances, weight)),
    ):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_gradients_of_the_fused_backward(backend):
    for name in SMALL:
        case = clamp_to_intervals(SMALL[name]())
        plan = case.plan()
        x, g, table, _ = leaves(case, width=2)
        edges, pairs = torch.arange(plan.num_edges), torch.arange(plan.num_edges)
        if plan.symmetric:
            edges, pairs = plan.undirected()
        lengths = case.distances[edges].clone().requires_grad_()
        primitives = Eager(plan, kernels_for(x))

        def function(g, x, lengths, table, plan=plan, pairs=pairs, primitives=primitives):
            return primitives.reduce_backward(g, x, plan.arrange(lengths[pairs]), table)

        assert gradcheck(function, (g, x, lengths, table))
        assert gradgradcheck(function, (g, x, lengths, table))


def test_force_training_matches_autograd_of_the_reference():
    case = molecules([9, 12], torch.float64)
    results = []
    for name in BACKENDS:
        with ops.backend(name):
            x, _, table, _ = leaves(case, width=16)
            plan = case.plan()
            lengths = case.distances.clone().requires_grad_()
            hidden = torch.tanh(cfconv(x, lengths, table, plan))
            energy = cfconv(hidden, lengths, table, plan).square().sum()
            (slope,) = torch.autograd.grad(energy, lengths, create_graph=True)
            (energy + slope.square().sum()).backward()
            results.append((energy, slope, x.grad, table.grad, lengths.grad))
    for a, b in zip(*results):
        assert_close(a.detach(), b.detach(), factor=20)


def test_forces_do_not_collect_gradients_of_the_table(monkeypatch):
    case = molecules([9], torch.float32)
    x, _, table, _ = leaves(case)
    lengths = case.distances.clone().requires_grad_()
    energy = cfconv(x, lengths, table * 1.0, case.plan()).sum()
    monkeypatch.setattr(Collect, "apply", None)
    torch.autograd.grad(energy, lengths, create_graph=True)


def test_non_contiguous_inputs(backend):
    case = directed(7, 20, 90, torch.float32)
    plan = case.plan()
    x, _, table, weight = case.features(64)
    expected = cfconv(x, case.distances, table, plan, weight)

    def strided(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    actual = cfconv(
        x.t().contiguous().t(), strided(case.distances), strided(table), plan, strided(weight)
    )
    assert_close(actual, expected)
    out = cfconv(x.requires_grad_(), case.distances, table, plan)
    (expanded,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (dense,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert_close(expanded, dense)


def test_outputs_are_fresh(backend):
    case = molecules([9], torch.float32)
    x, _, table, _ = case.features(64)
    plan = case.plan()
    first = cfconv(x, case.distances, table, plan)
    kept = first.clone()
    cfconv(2 * x, case.distances, table, plan)
    assert torch.equal(first, kept)


def test_edges_beyond_the_cutoff_contribute_exactly_nothing(backend):
    knots = Knots.spanning(0.5, 3.0)
    edge_index = torch.tensor([[1, 2], [0, 0]])
    distances = torch.tensor([3.0, 3.5], requires_grad=True)
    plan = EdgePlan.build(edge_index, 3, distances, knots)
    out = cfconv(torch.ones(3, 4), distances, torch.ones(knots.rows, 4), plan)
    assert out.abs().max() == 0
    assert torch.autograd.grad(out.sum(), distances)[0].abs().max() == 0


def test_distance_that_is_not_a_number_shows(backend):
    case = directed(3, 3, 5, torch.float32)
    x, _, table, _ = case.features(4)
    distances = case.distances.clone()
    distances[2] = float("nan")
    out = cfconv(x, distances, table, case.plan())
    assert out[case.edge_index[1, 2]].isnan().all()


def test_inputs_are_checked():
    case = directed(3, 5, 11, torch.float64)
    plan = case.plan()
    x, _, table, weight = case.features(4)
    for arguments, error, message in (
        ((x[1:], case.distances, table, plan), ValueError, "'x'"),
        ((x, case.distances, table[1:], plan), ValueError, "'table'"),
        ((x, case.distances[1:], table, plan), ValueError, "'distances'"),
        ((x, case.distances, table, plan, weight[1:]), ValueError, "'weight'"),
        ((x, case.distances.float(), table, plan), TypeError, "'distances'"),
        ((x, case.distances, table.float(), plan), TypeError, "'table'"),
        ((x, case.distances, table, EdgePlan.build(case.edge_index, (3, 5))), ValueError, "knots"),
    ):
        with pytest.raises(error, match=message):
            cfconv(*arguments)


def test_backends_by_name():
    with pytest.raises(ValueError, match="backend must be one of"):
        ops.backend("cuda")
    x = torch.zeros(2, 2, dtype=torch.float16)
    assert kernels_for(x) is reference
    with ops.backend("cpu"), pytest.raises(ValueError, match="float32 and float64"):
        kernels_for(x)
    assert kernels_for(x) is reference


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_features(backend):
    case = molecules([3, 1, 3], torch.float64)
    x = torch.empty(7, 0, dtype=torch.float64, requires_grad=True)
    distances = case.distances.detach().clone().requires_grad_()
    table = torch.empty(case.knots.rows, 0, dtype=torch.float64)
    with ops.backend(backend):
        cfconv(x, distances, table, case.plan()).sum().backward()
    assert not distances.grad.any()
