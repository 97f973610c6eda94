import math

import pytest
import torch
from torch_geometric.nn.models.schnet import GaussianSmearing as PyGGaussianSmearing

from pyg_schnet import CosineEnvelope, GaussianSmearing, PolynomialEnvelope, ShiftedSoftplus
from pyg_schnet.nn import GaussianBasis


def test_shifted_softplus_is_the_formula_of_the_paper():
    x = torch.linspace(-30, 30, 101, dtype=torch.float64)
    assert torch.allclose(ShiftedSoftplus()(x), torch.log(0.5 * x.exp() + 0.5), rtol=1e-12)
    assert ShiftedSoftplus()(torch.zeros(1)).item() == pytest.approx(0.0, abs=1e-7)


def test_shifted_softplus_does_not_overflow():
    x = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    y = ShiftedSoftplus()(x)
    assert torch.allclose(
        y,
        torch.tensor([-1.0, -1.0, 0, 0]) * math.log(2)
        + x.clamp(min=0)
        - torch.tensor([0, 0, 1.0, 1.0]) * math.log(2),
    )
    y.sum().backward()
    assert torch.allclose(x.grad, torch.tensor([0.0, 0, 1, 1]))


def test_gaussians_with_widths_of_their_own():
    centers, widths = torch.tensor([0.0, 1.5, 1.0]), torch.tensor([2.0, 0.3, 0.5])
    basis = GaussianBasis(centers, widths)
    values = basis(torch.tensor([0.8, 1.5]))
    expected = [
        [math.exp(-0.5 * ((d - c) / w) ** 2) for c, w in zip(centers.tolist(), widths.tolist())]
        for d in (0.8, 1.5)
    ]
    assert torch.allclose(values, torch.tensor(expected))
    assert basis.length_scale == pytest.approx(0.3)
    even = GaussianSmearing(0.0, 5.0, 25)
    same = GaussianBasis(even.offset, torch.full((25,), even.length_scale))
    distance = torch.linspace(0.0, 8.0, 50)
    assert torch.allclose(same(distance), even(distance), atol=1e-6)


def test_gaussians_of_the_paper():
    basis = GaussianSmearing(0.0, 29.9, 300, gamma=10.0)
    values = basis(torch.tensor([0.0, 1.23]))
    assert torch.allclose(basis.offset, torch.arange(300) * 0.1, atol=1e-5)
    assert values[0, 3].item() == pytest.approx(math.exp(-10 * 0.3**2), rel=1e-5)
    assert values[1, 12].item() == pytest.approx(math.exp(-10 * 0.03**2), rel=1e-5)


def test_width_rule_of_pyg():
    distance = torch.rand(50) * 6
    expected = PyGGaussianSmearing(0.0, 5.0, 25)(distance)
    assert torch.allclose(GaussianSmearing(0.0, 5.0, 25)(distance), expected, atol=1e-7)


def test_no_denormal_numbers():
    values = GaussianSmearing(0.0, 29.9, 300, gamma=10.0)(torch.linspace(0, 30, 1000))
    tiny = (values > 0) & (values < torch.finfo(torch.float32).tiny)
    assert not tiny.any()
    assert (values > 0).any(dim=1).all()


ENVELOPES = [CosineEnvelope(4.0), PolynomialEnvelope(4.0), PolynomialEnvelope(4.0, p=3)]


@pytest.mark.parametrize("envelope", ENVELOPES, ids=str)
def test_envelope_ends(envelope):
    d = torch.tensor([0.0, 4.0, 4.0001, 6.0, 8.0, 100.0], dtype=torch.float64)
    value = envelope(d)
    assert value[0] == 1.0
    assert not value[1:].any()  # the cosine alone would rise again beyond the cutoff


@pytest.mark.parametrize("envelope", ENVELOPES, ids=str)
def test_envelope_falls_smoothly(envelope):
    d = torch.linspace(0, 5, 2001, dtype=torch.float64, requires_grad=True)
    value = envelope(d)
    (slope,) = torch.autograd.grad(value.sum(), d)
    assert (slope <= 1e-12).all()
    numeric = (value[2:] - value[:-2]) / (d[2:] - d[:-2])
    assert torch.allclose(slope[1:-1], numeric, atol=2e-3)
    assert slope[d >= 4.0].abs().max() == 0


def test_cosine_envelope_is_the_formula():
    assert CosineEnvelope(4.0)(torch.tensor([1.0])).item() == pytest.approx(
        0.5 * (math.cos(math.pi / 4) + 1)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianSmearing(5.0, 5.0), "must ascend"),
        (lambda: GaussianSmearing(0.0, 5.0, 1), "at least two"),
        (lambda: GaussianSmearing(gamma=-1.0), "'gamma' must be positive"),
        (lambda: GaussianBasis(torch.ones(3), torch.ones(2)), r"got \[3\] and \[2\]"),
        (lambda: GaussianBasis(torch.ones(2), torch.tensor([1.0, -1.0])), r"widths \[1.0, -1.0\]"),
        (lambda: CosineEnvelope(0.0), "'cutoff' must be positive"),
        (lambda: PolynomialEnvelope(math.inf), "'cutoff' must be positive and finite"),
        (lambda: PolynomialEnvelope(5.0, p=2), "'p' must be at least 3"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_infinite_distances_are_beyond_every_cutoff():
    d = torch.tensor([1e6, 1e30, math.inf], requires_grad=True)
    for envelope in ENVELOPES:
        value = envelope(d)
        assert not value.any()
        assert not torch.autograd.grad(value.sum(), d)[0].any()


def test_shifted_softplus_keeps_its_digits_in_float64():
    x = torch.tensor([21.0, 25.0, 35.0], dtype=torch.float64)
    exact = torch.logaddexp(x, torch.zeros(3, dtype=torch.float64)) - math.log(2)
    assert torch.allclose(ShiftedSoftplus()(x), exact, rtol=1e-15)


@pytest.mark.parametrize("envelope", ENVELOPES, ids=str)
def test_slope_of_the_envelope(envelope):
    d = torch.tensor([0.0, 0.3, 2.1, 3.9, 4.0, 7.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(envelope(d).sum(), d)
    assert [envelope.slope(float(x)) for x in d.detach()] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("distance", [0.0, 3.3, 12.0, 40.0])
def test_gaussians_that_matter_below_a_distance(distance):
    basis = GaussianSmearing(0.0, 29.9, 300, gamma=10.0)
    count = basis.count_below(distance)
    values = basis(torch.linspace(0, distance, 1000))
    assert not values[:, count:].any()
    assert count <= 1 + (values > 0).any(dim=0).sum()
