"""Filters on other bases than Gaussians: formula, tables, and networks made of them."""

import math

import pytest
import torch
from molecules import random_molecule
from torch import nn
from torch_geometric.nn.models.dimenet import BesselBasisLayer

from pyg_schnet import GaussianFilter, PolynomialEnvelope, SchNet, SchNetConv
from pyg_schnet.nn import BesselBasis, RadialFilter
from pyg_schnet.nn.tables import frozen_table, knots_of, offers_table
from pyg_schnet.ops import spline_table


class Inverse(nn.Module):
    """A basis of the user's own: powers of the inverse distance."""

    def forward(self, distance):
        return distance.unsqueeze(-1) ** -torch.arange(1.0, 4.0).to(distance)


def bessel_filter(envelope: str = "cosine", num_activations: int = 2) -> RadialFilter:
    torch.manual_seed(0)
    made = RadialFilter(
        6, BesselBasis(8, 5.0), 5.0, envelope=envelope, num_activations=num_activations
    )
    nn.init.normal_(made.lin1.bias)
    nn.init.normal_(made.lin2.bias)
    return made


def test_bessel_functions_are_those_of_dimenet():
    d = torch.linspace(0.3, 4.99, 40, dtype=torch.float64)
    reference = BesselBasisLayer(12, 5.0, envelope_exponent=5).double()
    ours = BesselBasis(12, 5.0).double()(d) * PolynomialEnvelope(5.0, p=6)(d).unsqueeze(-1)
    # DimeNet leaves out the norm, and divides by d / cutoff.
    assert torch.allclose(ours * 5.0 / math.sqrt(2 / 5.0), reference(d), atol=1e-5)


def test_bessel_functions_are_orthonormal():
    d = torch.linspace(0, 4.0, 4001, dtype=torch.float64)
    values = BesselBasis(7, 4.0).double()(d)
    overlap = torch.trapezoid(
        values.unsqueeze(1) * values.unsqueeze(2) * d[:, None, None] ** 2, d, dim=0
    )
    assert torch.allclose(overlap, torch.eye(7, dtype=torch.float64), atol=1e-5)


def test_bessel_functions_are_smooth_at_zero():
    basis = BesselBasis(4, 5.0).double()
    n = torch.arange(1.0, 5.0, dtype=torch.float64)
    limit = math.sqrt(2 / 5.0) * n * math.pi / 5.0
    assert torch.allclose(basis(torch.zeros(1, dtype=torch.float64))[0], limit)
    d = torch.tensor([[1e-3], [3e-3], [5e-3], [0.1]], dtype=torch.float64)
    expected = math.sqrt(2 / 5.0) * torch.sin(n * math.pi * d / 5.0) / d
    assert torch.allclose(basis(d.squeeze(1)), expected, rtol=1e-12)
    d = torch.tensor([0.0, 0.01, 1.3, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis, d)
    assert torch.autograd.gradgradcheck(basis, d)


@pytest.mark.parametrize("num_activations", [1, 2])
def test_formula(num_activations):
    f = bessel_filter("cosine", num_activations).double()
    d = torch.linspace(0.5, 6.0, 30, dtype=torch.float64)
    n = torch.arange(1.0, 9.0, dtype=torch.float64)
    e = math.sqrt(2 / 5.0) * torch.sin(n * math.pi * d[:, None] / 5.0) / d[:, None]
    w = torch.log(0.5 * (e @ f.lin1.weight.T + f.lin1.bias).exp() + 0.5)
    w = w @ f.lin2.weight.T + f.lin2.bias
    if num_activations == 2:
        w = torch.log(0.5 * w.exp() + 0.5)
    envelope = torch.where(d < 5.0, 0.5 * (torch.cos(math.pi * d / 5.0) + 1), 0.0)
    assert torch.allclose(f(d), w * envelope[:, None], rtol=1e-9)


@pytest.mark.parametrize("envelope", ["cosine", "polynomial", "none"])
def test_table(envelope):
    """From samples that are kept, as from a spline through the filter itself."""
    f = bessel_filter(envelope).double().requires_grad_(False)
    knots = knots_of(f)
    assert knots.spacing == pytest.approx(5.0 / (8 * math.pi) / 10, rel=0.02)
    table = f.table(knots)
    values = f(knots.positions(torch.float64, torch.device("cpu")))
    ends = torch.tensor([0.0, 5.0], dtype=torch.float64)
    slopes = torch.autograd.functional.jvp(f, ends, torch.ones_like(ends))[1]
    reference = spline_table(values, slopes, knots.spacing)
    assert torch.allclose(table, reference, atol=1e-6 * float(values.abs().max()))
    f.basis.cutoff = 4.0  # what is kept is not what it was
    assert not torch.allclose(f.table(knots), table, atol=1e-3)
    f.basis.cutoff = 5.0
    frozen_table(f)  # would warn if the spline could not follow


def test_frequencies_may_be_trained():
    """As parameters in place of buffers: tables follow them, and give them gradients."""
    f = bessel_filter()
    conv = SchNetConv(7, 5, 6, f)
    edges = torch.randint(20, (2, 100))
    x, d = torch.randn(20, 7), 0.5 + 4.0 * torch.rand(100)
    conv(x, edges, d)  # with what would be kept
    order = f.basis.order.clone()
    del f.basis.order
    f.basis.order = nn.Parameter(order)
    gradients = {}
    for mode in ("table", "exact"):
        conv.mode = mode
        (gradients[mode],) = torch.autograd.grad(conv(x, edges, d).square().sum(), f.basis.order)
    assert torch.allclose(gradients["table"], gradients["exact"], rtol=1e-3, atol=1e-3)
    assert gradients["exact"].abs().max() > 0.1


def test_convolutions_agree_in_all_modes():
    torch.manual_seed(1)
    edges = torch.randint(20, (2, 100))
    x, d = torch.randn(20, 7), 0.5 + 5.0 * torch.rand(100)
    conv = SchNetConv(7, 5, 6, bessel_filter())
    assert conv.tabulates(x, edges)
    table = conv(x, edges, d)
    conv.mode = "exact"
    assert torch.allclose(table, conv(x, edges, d), rtol=1e-5, atol=1e-5)


def test_bases_without_a_length_scale_are_evaluated_on_edges():
    f = RadialFilter(6, Inverse(), 5.0)
    assert f.lin1.in_channels == 3
    assert not offers_table(f)
    assert SchNetConv(7, 5, 6, f)(torch.randn(2, 7), torch.tensor([[0], [1]]), torch.ones(1)).any()
    with pytest.raises(ValueError, match="offers no table"):
        SchNetConv(7, 5, 6, f, mode="table")


class Smooth(Inverse):
    length_scale, d_min = 0.2, 0.7


def test_own_bases_may_offer_tables():
    """They may not be defined below d_min, nor beyond the last knot: only the filter is called."""
    conv = SchNetConv(7, 5, 6, RadialFilter(6, Smooth(), 5.0))
    edges = torch.randint(20, (2, 100))
    x, d = torch.randn(20, 7), 0.5 + 5.0 * torch.rand(100)
    assert conv.tabulates(x, edges)
    table = conv(x, edges, d)
    conv.mode = "exact"
    assert torch.allclose(table, conv(x, edges, d), rtol=1e-4, atol=1e-4)


def network(cutoff: float = 5.0) -> SchNet:
    torch.manual_seed(0)
    return SchNet(16, 6, 2, cutoff=cutoff, filter=lambda: RadialFilter(6, BesselBasis(8, 5.0), 5.0))


def test_a_network_of_other_filters(tmp_path):
    model, data = network(), random_molecule(12, dtype=torch.float64)
    assert "filter=RadialFilter" in str(model)
    result = model.predict(data)
    model.mode = "exact"
    exact = model.predict(data)
    assert torch.allclose(result["energy"], exact["energy"], rtol=1e-5)
    assert torch.allclose(result["forces"], exact["forces"], atol=1e-4)

    model.mode = "auto"
    model.freeze()
    assert torch.allclose(model.predict(data)["forces"], exact["forces"], atol=1e-4)
    model.save(tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"of another kind \(RadialFilter\).*\(GaussianFilter\)"):
        SchNet.load(tmp_path / "some.safetensors", filter=lambda: GaussianFilter(6, cutoff=5.0))
    with pytest.raises(ValueError, match=r"basis was .*num_radial=8, cutoff=5.*cutoff=4"):
        SchNet.load(
            tmp_path / "some.safetensors", filter=lambda: RadialFilter(6, BesselBasis(8, 4.0), 5.0)
        )
    loaded = SchNet.load(
        tmp_path / "some.safetensors", filter=lambda: RadialFilter(6, BesselBasis(8, 5.0), 5.0)
    )
    assert torch.equal(loaded.predict(data)["energy"], result["energy"])
    loaded.interactions[0].conv.filter = GaussianFilter(6, cutoff=5.0)
    assert "filter=RadialFilter" in str(loaded)  # the other block still has it


def test_a_model_of_gaussians_takes_no_other_filter(tmp_path):
    SchNet(8, 6, 1).save(tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"of another kind \(GaussianFilter\)"):
        SchNet.load(tmp_path / "some.safetensors", filter=lambda: RadialFilter(6, Inverse(), 5.0))


def test_wrong_filters():
    with pytest.raises(ValueError, match=r"'basis' must turn .* \(got \[1\] for a single"):
        RadialFilter(6, nn.Identity())
    with pytest.raises(ValueError, match=r"'num_radial' must be at least 1 \(got 0\)"):
        BesselBasis(0, 5.0)
    with pytest.raises(ValueError, match=r"'cutoff' must be positive and finite \(got -1"):
        BesselBasis(4, -1.0)
    with pytest.raises(ValueError, match=r"reaches to 5 A, the neighbours to 'cutoff', 4 A"):
        network(cutoff=4.0)
    shared = RadialFilter(6, Inverse(), 5.0)
    with pytest.raises(ValueError, match="must make a new filter at each call"):
        SchNet(16, 6, 2, filter=lambda: shared)
