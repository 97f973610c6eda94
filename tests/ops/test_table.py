"""Knots and splines: accuracy to the ends, derivatives, agreement of both solvers."""

import math

import pytest
import torch

from pyg_schnet import ops
from pyg_schnet.ops import Knots, Samples, backend, filter_table, spline_table
from pyg_schnet.ops.table import (
    _solve_clamped,
    _solve_clamped_transposed,
    locate,
    sampled_table,
    spline_basis,
)


def evaluate(table, distances, knots, order=0):
    index, offset, inside = locate(distances, knots)
    basis = spline_basis(offset, knots.spacing, order) * inside.unsqueeze(-1)
    return sum(basis[:, m : m + 1] * table[index + m] for m in range(4))


def random_filter(seed=0, cutoff=5.0):
    """A filter network as in the paper, with random weights and a cosine envelope."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.arange(0.0, cutoff, 0.1, dtype=torch.float64)
    first = torch.randn(centers.numel(), 64, generator=generator, dtype=torch.float64) / 7
    second = torch.randn(64, 64, generator=generator, dtype=torch.float64) / 8

    def W(d):
        basis = torch.exp(-10.0 * (d.unsqueeze(-1) - centers) ** 2)
        out = torch.nn.functional.softplus(basis @ first) @ second
        envelope = 0.5 * (torch.cos(d * math.pi / cutoff) + 1) * (d < cutoff)
        return out * envelope.unsqueeze(-1)

    return W


def tabulate(W, knots):
    positions = knots.positions(torch.float64)
    ends = positions[[0, -1]]
    slopes = torch.func.jvp(W, (ends,), (torch.ones_like(ends),))[1]
    return spline_table(W(positions), slopes, knots.spacing)


def test_knots_meet_the_cutoff():
    knots = Knots.spanning(0.22, 5.0)
    assert knots.intervals == 228
    assert knots.stop == pytest.approx(5.0, abs=1e-14)
    assert knots.rows == 231
    assert knots.positions(torch.float64)[-1].item() == pytest.approx(5.0, abs=1e-14)
    assert Knots.spanning(0.2, 5.0).intervals == 250


def test_covering_rounds_up_and_stops_at_the_range():
    knots = Knots.spanning(0.2, 30.0, vanishes=False)
    assert knots.covering(11.3).intervals == 600
    assert knots.covering(11.3).spacing == knots.spacing
    assert knots.covering(29.0) is knots
    assert knots.covering(1e9) is knots
    assert not Knots.spanning(0.2, 5.0).covering(1.0).vanishes
    assert knots.halved().stop == pytest.approx(30.0)


@pytest.mark.parametrize(
    "arguments", [(0.0, 5.0), (math.nan, 5.0), (0.2, 0.0), (0.2, math.inf), (0.2, 1.0, 2.0)]
)
def test_bad_knots_raise(arguments):
    with pytest.raises(ValueError, match=r"need 0|length_scale"):
        Knots.spanning(*arguments)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_spline_is_accurate_to_both_ends(backend):
    W = random_filter()
    knots = Knots.spanning(1 / math.sqrt(20.0), 5.0)
    with ops.backend(backend):
        table = tabulate(W, knots)
    d = torch.linspace(0, 5, 20_001, dtype=torch.float64)
    slope = torch.func.jvp(W, (d,), (torch.ones_like(d),))[1]
    value_error = (evaluate(table, d, knots) - W(d)).abs().amax(dim=1)
    slope_error = (evaluate(table, d, knots, 1) - slope).abs().amax(dim=1)
    assert value_error.max() < 1e-6 * W(d).abs().max()
    assert slope_error.max() < 5e-5 * slope.abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_error_falls_with_the_fourth_power(backend):
    W = random_filter()
    d = torch.linspace(0, 5, 5_001, dtype=torch.float64)[:-1]
    errors = []
    for knots in (Knots.spanning(0.2, 5.0), Knots.spanning(0.2, 5.0).halved()):
        with ops.backend(backend):
            table = tabulate(W, knots)
        errors.append((evaluate(table, d, knots) - W(d)).abs().max())
    assert 14 < errors[0] / errors[1] < 18


@pytest.mark.parametrize("order", [0, 1, 2])
def test_basis_is_the_derivative_of_the_order_below(order):
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    spacing = 0.3
    distances = u * spacing
    slope = torch.func.jvp(
        lambda d: spline_basis(d / spacing, spacing, order),
        (distances,),
        (torch.ones_like(distances),),
    )[1]
    torch.testing.assert_close(spline_basis(u, spacing, order + 1), slope)
    assert spline_basis(u, spacing, 4).abs().max() == 0


def test_nothing_beyond_the_last_knot():
    knots = Knots.spanning(0.5, 2.0)
    table = torch.ones(knots.rows, 1, dtype=torch.float64)
    d = torch.tensor([0.0, 2.0 - 1e-9, 2.0, 2.5], dtype=torch.float64)
    torch.testing.assert_close(
        evaluate(table, d, knots)[:, 0], torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    )
    closed = Knots.spanning(0.5, 2.0, vanishes=False)
    assert evaluate(table, d, closed)[2, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("intervals", [1, 2, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_solvers_agree_with_the_equations(intervals, dtype):
    torch.manual_seed(0)
    values = torch.randn(intervals + 1, 5, dtype=dtype)
    slopes = torch.randn(2, 5, dtype=dtype)
    spacing = 0.3
    tolerance = {torch.float32: 5e-6, torch.float64: 1e-13}[dtype]
    for table in (spline_table(values, slopes, spacing), _solve_clamped(values, slopes, spacing)):
        knots = (table[:-2] + 4 * table[1:-1] + table[2:]) / 6
        torch.testing.assert_close(knots, values, rtol=0, atol=tolerance)
        ends = torch.stack([table[2] - table[0], table[-1] - table[-3]]) / (2 * spacing)
        torch.testing.assert_close(ends, slopes, rtol=0, atol=tolerance)


@pytest.mark.parametrize("intervals", [1, 2, 9])
def test_table_is_differentiable(intervals):
    torch.manual_seed(0)
    values = torch.randn(intervals + 1, 3, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(spline_table, (values, slopes, 0.1))
    assert torch.autograd.gradgradcheck(spline_table, (values, slopes, 0.1))


def test_transposed_solve_matches_autograd():
    values = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(14, 3, dtype=torch.float64)
    expected = torch.autograd.grad(_solve_clamped(values, slopes, 0.2), (values, slopes), grad)
    for actual, wanted in zip(_solve_clamped_transposed(grad, 0.2), expected):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("intervals", [1, 2, 9])
def test_table_of_samples(intervals):
    """The same as its parts, which follow from autograd; without a kernel too."""
    torch.manual_seed(0)
    samples = torch.randn(intervals + 7, 3, dtype=torch.float64, requires_grad=True)
    envelope = torch.rand(intervals + 1, dtype=torch.float64)
    stencils = torch.randn(2, 7, dtype=torch.float64)
    slopes = torch.stack([stencils[0] @ samples[:7], stencils[1] @ samples[-7:]])
    expected = spline_table(samples[3:-3] * envelope[:, None], slopes, 0.1)
    for name in ("cpu", "reference"):
        with backend(name):
            table = sampled_table(samples, envelope, stencils, 0.1)
            torch.testing.assert_close(table, expected)
            constants = (envelope, stencils, 0.1)
            assert torch.autograd.gradcheck(sampled_table, (samples, *constants))
            assert torch.autograd.gradgradcheck(sampled_table, (samples, *constants))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="samples"):
        sampled_table(torch.zeros(9, 3), torch.zeros(4), torch.zeros(2, 7), 0.1)
    with pytest.raises(ValueError, match="values"):
        spline_table(torch.zeros(1, 3), torch.zeros(2, 3), 0.1)
    with pytest.raises(ValueError, match="slopes"):
        spline_table(torch.zeros(5, 3), torch.zeros(2, 2), 0.1)


@pytest.mark.parametrize("num_activations", [1, 2])
def test_table_of_a_network(num_activations):
    """Its own derivatives, and those of the composed operators, against finite differences."""
    torch.manual_seed(0)
    shapes = [(3, 6), (3,), (3, 3), (3,)]
    weights = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    samples = Samples(
        basis=torch.rand(11, 5, dtype=torch.float64),  # the last input vanishes
        envelope=torch.rand(5, dtype=torch.float64),
        stencils=torch.randn(2, 7, dtype=torch.float64),
        spacing=0.1,
    )

    def table(*weights):
        return filter_table(*weights, samples, num_activations)

    value = table(*weights)
    assert torch.autograd.gradcheck(table, weights)
    assert torch.autograd.gradgradcheck(table, weights)
    with backend("reference"):
        torch.testing.assert_close(table(*weights), value)
    frozen = [w.detach() for w in weights[:2]]
    loss = table(*frozen, *weights[2:]).square().sum()
    grads = torch.autograd.grad(loss, weights[2:], create_graph=True)
    assert all(grad.requires_grad and grad.abs().max() > 0 for grad in grads)
