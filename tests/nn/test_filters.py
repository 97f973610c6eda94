import math

import pytest
import torch

from pyg_schnet import GaussianFilter


def manual_filter(f: GaussianFilter, d: torch.Tensor) -> torch.Tensor:
    """The formula of the paper, written out."""

    def ssp(x):
        return torch.log(0.5 * x.exp() + 0.5)

    e = torch.exp(-f.basis.gamma * (d[:, None] - f.basis.offset) ** 2)
    w = ssp(e @ f.lin1.weight.T + f.lin1.bias) @ f.lin2.weight.T + f.lin2.bias
    return ssp(w) if f.num_activations == 2 else w


@pytest.mark.parametrize("num_activations", [1, 2])
@pytest.mark.parametrize("envelope", ["cosine", "none"])
def test_formula(num_activations, envelope):
    f = GaussianFilter(6, 20, 5.0, envelope=envelope, num_activations=num_activations).double()
    torch.nn.init.normal_(f.lin1.bias)
    torch.nn.init.normal_(f.lin2.bias)
    d = torch.linspace(0.5, 4.9, 30, dtype=torch.float64)
    expected = manual_filter(f, d)
    if envelope == "cosine":
        expected = expected * 0.5 * (torch.cos(math.pi * d / 5.0) + 1)[:, None]
    assert torch.allclose(f(d), expected, rtol=1e-10)


@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
def test_exactly_zero_beyond_the_cutoff(envelope):
    f = GaussianFilter(6, 20, 5.0, envelope=envelope, num_activations=2)
    d = torch.tensor([5.0, 5.5, 9.0, 12.0])
    assert not f(d).any()


def test_beyond_the_range_without_envelope():
    f = GaussianFilter(6, 20, 5.0, envelope="none")
    assert f(torch.tensor([5.0])).abs().max() > 0
    with pytest.raises(ValueError, match=r"distance of 5.1 A is beyond the range .*5 A"):
        f(torch.tensor([1.0, 5.1]))


@pytest.mark.parametrize("envelope", ["cosine", "polynomial", "none"])
def test_gradients(envelope):
    f = GaussianFilter(3, 6, 5.0, envelope=envelope, num_activations=2).double()
    d = torch.tensor([0.3, 1.1, 2.5, 4.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, d)
    assert torch.autograd.gradgradcheck(f, d)


def test_reset_parameters():
    f = GaussianFilter(3)
    before = f.lin1.weight.clone()
    torch.nn.init.ones_(f.lin2.bias)
    f.reset_parameters()
    assert not torch.equal(before, f.lin1.weight)
    assert not f.lin2.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"envelope": "gauss"}, "'envelope' must be one of .*got 'gauss'"),
        ({"num_activations": 3}, r"'num_activations' must be 1 or 2 \(got 3\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GaussianFilter(3, **settings)
