"""Shifted softplus: accuracy near zero and far away, derivatives, special values."""

import math

import pytest
import torch

from pyg_schnet import ops
from pyg_schnet.ops import shifted_softplus


def exact(x):
    """In float64; near zero by its series, where the closed form loses digits."""
    series = x / 2 + x**2 / 8 - x**4 / 192
    return torch.where(x.abs() < 0.01, series, torch.nn.functional.softplus(x) - math.log(2))


@pytest.fixture
def points():
    tiny = torch.logspace(-30, 2, 20_001)
    return torch.cat([torch.linspace(-110, 110, 40_001), tiny, -tiny]).requires_grad_()


def test_value_is_accurate_everywhere(points):
    expected = exact(points.detach().double())
    error = (shifted_softplus(points).detach().double() - expected).abs()
    assert (error <= 5e-7 * expected.abs()).all()
    with torch.no_grad():
        assert torch.equal(shifted_softplus(points), shifted_softplus(points.clone()))


def test_derivatives_are_accurate(points):
    value = shifted_softplus(points)
    (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    sigmoid = torch.sigmoid(points.detach().double())
    assert (slope.detach() - sigmoid).abs().max() < 2e-7
    (bend,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    assert (bend.detach() - sigmoid * (1 - sigmoid)).abs().max() < 2e-7
    (third,) = torch.autograd.grad(bend.sum(), points)
    assert (third - sigmoid * (1 - sigmoid) * (1 - 2 * sigmoid)).abs().max() < 2e-7


def test_double_backward_without_graph(points):
    weight = torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("cpu", "reference"):
        with ops.backend(backend):
            (slope,) = torch.autograd.grad(
                (weight * shifted_softplus(points)).sum(), points, create_graph=True
            )
            results.append(torch.autograd.grad(slope.square().sum(), points)[0])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_special_values():
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40])
    y = shifted_softplus(x)
    assert y[0].isnan()
    assert y[1] == math.inf
    assert y[2] == pytest.approx(-math.log(2))
    assert y[3] == 0
    assert y[4] == 0
    assert shifted_softplus(torch.empty(0, 3)).shape == (0, 3)


def test_float64_and_shapes():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(shifted_softplus, x)
    assert torch.autograd.gradgradcheck(shifted_softplus, x)
    strided = torch.randn(6, 4).t()
    assert shifted_softplus(strided).shape == (4, 6)
    torch.testing.assert_close(
        shifted_softplus(strided), torch.nn.functional.softplus(strided) - math.log(2)
    )
