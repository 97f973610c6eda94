"""Predictions follow what users exchange, hook or change in a network, frozen or not."""

import copy

import pytest
import torch
from molecules import Oscillating
from torch import nn
from torch_geometric.data import Batch

from pyg_schnet import GaussianFilter, SchNet, SchNetConv
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.nn.tables import knots_of, sampled


@pytest.fixture(scope="module")
def molecules() -> Batch:
    dataset = QM9Sample()
    batch = Batch.from_data_list([dataset[i] for i in range(900, 908)])
    batch.pos = batch.pos.double()
    return batch


def network() -> SchNet:
    torch.manual_seed(0)
    return SchNet(32, 32, 3, num_gaussians=50, cutoff=10.0)


class Zero(GaussianFilter):
    """Looks like a filter with tables, but is another."""

    def forward(self, distance):
        return 0.0 * super().forward(distance)


def exchanged(what: str) -> SchNet:
    model = network()
    block = model.interactions[1]
    if what == "activation":
        block.act = nn.Tanh()
    elif what == "dense layer":
        block.lin = nn.Sequential(block.lin, nn.Tanh())
    elif what == "filter":
        block.conv.filter = Zero(32)
    elif what == "activation of a filter":
        block.conv.filter.act = nn.Tanh()
    elif what == "layer hook in a filter":
        block.conv.filter.lin1.register_forward_hook(lambda module, args, out: 0.5 * out)
    elif what == "filter hook":
        block.conv.filter.register_forward_hook(lambda module, args, out: 0.0 * out)
    elif what == "own knots":
        block.conv.filter = Oscillating(32)
    return model


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "what",
    [
        *("activation", "dense layer", "filter", "activation of a filter"),
        *("layer hook in a filter", "filter hook", "own knots"),
    ],
)
def test_predictions_follow_exchanged_parts(what, frozen, molecules):
    """Exact evaluation through autograd is the reference."""
    model = exchanged(what)
    if frozen and what not in ("filter hook", "own knots"):
        model.freeze()
    result = model.predict(molecules)
    model.mode = "exact"
    expected = model.predict(molecules)
    assert torch.allclose(result["energy"], expected["energy"], rtol=1e-4, atol=1e-4)
    assert torch.allclose(result["forces"], expected["forces"], atol=1e-3)


def test_frozen_models_notice_new_parts_and_weights(molecules):
    changes = {
        "reset": lambda m: m.reset_parameters(),
        "filter": lambda m: setattr(m.interactions[0].conv, "filter", GaussianFilter(32)),
        "weight": lambda m: setattr(
            m.interactions[0].lin, "weight", nn.Parameter(torch.randn(32, 32))
        ),
    }
    for change in changes.values():
        model = network().freeze()
        change(model)
        result = model.predict(molecules)["energy"]
        model.mode = "exact"
        assert torch.allclose(result, model.predict(molecules)["energy"], rtol=1e-4, atol=1e-4)


def test_frozen_tables_are_dropped_when_weights_change(molecules):
    def change(model):
        with torch.no_grad():
            model.interactions[0].conv.filter.lin2.weight.mul_(1.5)

    model = network().freeze()
    frozen = model.predict(molecules)["energy"]
    change(model)
    assert torch.equal(model.predict(molecules)["energy"], frozen)  # the table is what counts
    thaws = {
        "train": lambda m: m.train(),
        "load_state_dict": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
        "to": lambda m: m.to(torch.float64).to(torch.float32),
    }
    for thaw in thaws.values():
        model = network().freeze()
        change(model)
        thaw(model)
        assert not torch.allclose(model.predict(molecules)["energy"], frozen)
        assert all(block.conv._frozen is None for block in model.interactions)


def test_a_frozen_model_still_trains_its_filters(molecules):
    """Tables serve inference only: a loss on a frozen model reaches the filter weights."""
    model = network().freeze()
    model(molecules.z, molecules.pos, molecules.batch).sum().backward()
    assert model.interactions[0].conv.filter.lin1.weight.grad.abs().max() > 0


def test_frozen_table_of_a_rough_filter_gets_more_knots():
    class Rough(nn.Module):
        length_scale, d_min, d_max = 1.0, 0.0, 5.0

        def forward(self, d):
            return torch.sin(20 * d).unsqueeze(-1)

    knots = knots_of(Rough())
    assert sampled(Rough(), knots)[1] > 1e-3
    conv = SchNetConv(3, 1, filter=Rough()).freeze()
    assert conv._frozen[0].intervals > 4 * knots.intervals
    assert sampled(Rough(), conv._frozen[0])[1] < 1e-6
