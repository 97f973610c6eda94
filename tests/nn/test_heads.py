"""Heads, embeddings and dense layers of one's own in place of ours."""

import pytest
import torch
from molecules import random_molecule
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import global_add_pool

from pyg_schnet import SchNet, SchNetConv, forces_from_energy
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig, fit


@pytest.fixture
def model() -> SchNet:
    torch.manual_seed(0)
    return SchNet(16, 8, 2, cutoff=5.0)


@pytest.fixture
def batch() -> Batch:
    return Batch.from_data_list([random_molecule(n) for n in (4, 7)])


def test_features_have_gradients(model, batch):
    features = model.features(batch)
    assert features.shape == (11, 16)
    assert torch.allclose(features, model.predict(batch, features=True)["features"], atol=1e-5)
    head = nn.Linear(16, 3)
    global_add_pool(head(features), batch.batch).square().sum().backward()
    for name, parameter in model.named_parameters():
        inner = "readout" not in name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == inner, name
    pos = batch.pos.clone().requires_grad_()
    moved = Data(z=batch.z, pos=pos, batch=batch.batch)
    assert torch.autograd.grad(model.features(moved).sum(), pos)[0].any()


def test_an_energy_from_features_is_that_of_the_model(model, batch):
    """Put together by hand: readout on features, forces by their gradient."""
    pos = batch.pos.clone().requires_grad_()
    data = Data(z=batch.z, pos=pos, batch=batch.batch)
    energy, _ = model.readout(model.features(data), data.z, pos, data.batch, 2)
    expected = model.predict(batch)
    assert torch.allclose(energy.squeeze(-1), expected["energy"], atol=1e-5)
    assert torch.allclose(forces_from_energy(energy, pos), expected["forces"], atol=1e-4)


class Several(nn.Module):
    """A readout with three targets."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(16, 3)

    def forward(self, x, z, pos, batch, batch_size):
        atoms = self.lin(x)
        return atoms.new_zeros(batch_size, 3).index_add(0, batch, atoms), atoms


def test_several_targets(model, batch):
    """The model itself gives what a readout gives; forces of a sum of targets are nobody's."""
    model.readout = Several()
    assert model(batch.z, batch.pos, batch.batch).shape == (2, 3)
    with pytest.raises(ValueError, match=r"one target .* gives \[2, 3\] in place of \[B, 1\]"):
        model.predict(batch)
    model.readout = Single()
    with pytest.raises(TypeError, match=r"must return two tensors, .* \(got Tensor\)"):
        model(batch.z, batch.pos, batch.batch)


class Single(nn.Module):
    def forward(self, x, z, pos, batch, batch_size):
        return x.sum()


def test_a_wider_last_layer_is_refused(model, batch):
    model.readout.lin2 = nn.Linear(8, 3)
    for run in (lambda: model(batch.z, batch.pos, batch.batch), lambda: model.predict(batch)):
        with pytest.raises(ValueError, match=r"one output per atom \(got \[11, 3\]"):
            run()


class Charged(nn.Module):
    """The embedding of a species, and more."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding
        self.charge = nn.Parameter(torch.full((16,), 0.5))

    def forward(self, z):
        return self.embedding(z) + self.charge


def test_another_embedding(model, batch, tmp_path):
    before = model.predict(batch)["energy"]
    model.embedding = Charged(model.embedding)
    result = model.predict(batch)
    assert torch.allclose(result["energy"], model(batch.z, batch.pos, batch.batch).squeeze(-1))
    assert not torch.allclose(result["energy"], before)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    sample = QM9Sample(targets=["U0"], units="eV")[:24]
    config = TrainConfig.fast(label="U0", epochs=1, batch_size=8)
    history = fit(model, sample[:16], sample[16:], config, tmp_path)
    assert history[-1]["step"] == 2


class LowRank(nn.Module):
    """A dense layer with a correction that alone is trained."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_channels, 2, bias=False)
        self.up = nn.Linear(2, layer.out_channels, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


@pytest.mark.parametrize("mode", ["exact", "table"])
def test_dense_layers_in_wrappers(mode, model, batch):
    model.mode = mode
    for block in model.interactions:
        block.conv.lin1 = LowRank(block.conv.lin1)
        block.lin = LowRank(block.lin)
    result = model.predict(batch)
    pos = batch.pos.clone().requires_grad_()
    energy = model(batch.z, pos, batch.batch)
    assert torch.allclose(result["energy"], energy.squeeze(-1), atol=1e-5)
    assert torch.allclose(result["forces"], forces_from_energy(energy, pos), atol=1e-4)
    frozen = model.freeze().predict(batch)
    assert torch.allclose(frozen["energy"], result["energy"], atol=1e-4)


def test_a_layer_with_another_dense_layer():
    conv = SchNetConv(8, 4, cutoff=5.0)
    expected = conv(torch.ones(3, 8), torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 2.0]))
    conv.lin1 = nn.Sequential(conv.lin1, nn.Identity())
    found = conv(torch.ones(3, 8), torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 2.0]))
    assert torch.allclose(found, expected)
