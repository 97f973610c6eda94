"""DTNN and enn-s2s are the networks of their papers, and take SchNet's place in training."""

import importlib

import pytest
import torch
from molecules import random_molecule
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Batch, Data

from pyg_schnet import radius_graph
from pyg_schnet.datasets import MD17Sample, QM9Sample
from pyg_schnet.training import TrainConfig, evaluate, fit

NAMES = ("DTNN", "EnnS2S")


pytestmark = pytest.mark.usefixtures("load")


def build(name: str, **settings):
    """A small network with weights that are not zero."""
    file = {"DTNN": "dtnn", "EnnS2S": "enn_s2s"}[name]
    small = {"DTNN": {"num_factors": 7}, "EnnS2S": {"num_edge_features": 5}}[name]
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"baselines.{file}"), name)
    model = network(**(small | {"hidden_channels": 6} | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.embedding.weight[0] = 0.0
    model.readout.offsets.set(mean=-1.0, std=2.0, atomref=-torch.arange(10.0))
    return model


@pytest.mark.parametrize(("features", "factors"), [(30, 60), (8, 12)])
def test_parameters_of_dtnn(features: int, factors: int) -> None:
    """Embeddings, W^cf and b^f1, W^df and b^f2 of 101 Gaussians, W^fc, and the readout."""
    model = importlib.import_module("baselines.dtnn").DTNN(features, factors, num_passes=2)
    half = features // 2
    expected = 101 * features + (features + 1) * factors + (101 + 1) * factors
    expected += factors * features + (features + 1) * half + (half + 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert features != 30 or expected == 13_291


@pytest.mark.parametrize(("f", "k"), [(64, 128), (8, 5)])
def test_parameters_of_enn_s2s(f: int, k: int) -> None:
    """Embeddings, edge network, root and bias, GRU, LSTM of the readout, and two dense layers."""
    model = importlib.import_module("baselines.enn_s2s").EnnS2S(f, k, num_passes=2)
    expected = 101 * f + 2 * k + (k + 1) * f * f + f * f + f
    expected += 3 * (2 * f * f + 2 * f) + 4 * (3 * f * f + 2 * f)
    expected += (2 * f + 1) * f + (f + 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_gaussians_of_dtnn() -> None:
    """From -1 A every 0.2 A, as wide as that."""
    model = importlib.import_module("baselines.dtnn").DTNN()
    centres, width = -1.0 + 0.2 * torch.arange(101), 0.2
    distance = torch.tensor([0.9, 3.14, 12.0])
    expected = torch.exp(-((distance[:, None] - centres) ** 2) / (2 * width**2))
    torch.testing.assert_close(model.smearing(distance), expected, atol=1e-5, rtol=1e-4)


def reference_dtnn(model, z: Tensor, pos: Tensor) -> float:
    """The equations of the paper, atom by atom."""
    layer, readout = model.interaction, model.readout
    c = [model.embedding.weight[i] for i in z]
    for _ in range(model.config["num_passes"]):
        change = []
        for i in range(len(z)):
            total = torch.zeros_like(c[i])
            for j in range(len(z)):
                if i == j:
                    continue
                d = model.smearing((pos[i] - pos[j]).norm())
                left = layer.from_features.weight @ c[j] + layer.from_features.bias
                right = layer.filters.weight @ d + layer.filters.bias
                total = total + torch.tanh(layer.to_features.weight @ (left * right))
            change.append(total)
        c = [a + b for a, b in zip(c, change)]
    energy = 0.0
    for i in range(len(z)):
        o = torch.tanh(readout.lin1.weight @ c[i] + readout.lin1.bias)
        energy += 2.0 * (readout.lin2.weight @ o + readout.lin2.bias).item() - 1.0 - z[i].item()
    return energy


def reference_enn_s2s(model, z: Tensor, pos: Tensor) -> float:
    """PyG's own convolution, one cell of the GRU per atom, and the readout step by step."""
    n, f = len(z), model.embedding.embedding_dim
    pairs = [(j, i) for i in range(n) for j in range(n) if i != j]
    edges = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    distance = (pos[edges[0]] - pos[edges[1]]).norm(dim=1, keepdim=True)
    cell = nn.GRUCell(f, f).to(pos.dtype)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in model.gru.state_dict().items()})
    h = model.embedding(z)
    for _ in range(model.config["num_passes"]):
        message = functional.relu(model.conv(h, edges, distance))
        h = torch.stack([cell(m, one) for m, one in zip(message, h)])
    readout = model.readout
    lstm = nn.LSTMCell(2 * f, f).to(pos.dtype)
    state = readout.set2set.lstm.state_dict()
    lstm.load_state_dict({k.removesuffix("_l0"): v for k, v in state.items()})
    whole, hidden = h.new_zeros(2 * f), (h.new_zeros(f), h.new_zeros(f))
    for _ in range(model.config["num_readouts"]):
        hidden = lstm(whole, hidden)
        attention = torch.softmax(h @ hidden[0], dim=0)
        whole = torch.cat([hidden[0], attention @ h])
    out = readout.lin2(functional.relu(readout.lin1(whole))).item()
    return n * (2.0 * out - 1.0) - z.sum().item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("passes", [0, 1, 3])
def test_equations(name: str, passes: int) -> None:
    reference = {"DTNN": reference_dtnn, "EnnS2S": reference_enn_s2s}[name]
    model = build(name, num_passes=passes).double()
    molecules = [random_molecule(n, seed=n) for n in (5, 1, 3)]
    for data in molecules:
        data.pos = data.pos.double()
    with torch.no_grad():
        expected = [reference(model, data.z, data.pos) for data in molecules]
        found = model.predict(Batch.from_data_list(molecules), forces=False)["energy"]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_symmetries_and_molecules_apart(name: str) -> None:
    model = build(name).double()
    molecules = [random_molecule(n, seed=n) for n in (5, 2, 7)]
    for data in molecules:
        data.pos = data.pos.double()
    alone = torch.cat([model.predict(data)["energy"] for data in molecules])
    together = model.predict(Batch.from_data_list(molecules))
    torch.testing.assert_close(together["energy"], alone)
    moved = []
    for data in molecules:
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
        order = torch.randperm(data.num_nodes)
        moved.append(Data(z=data.z[order], pos=(data.pos @ turn.T + 3.0)[order]))
    found = model.predict(Batch.from_data_list(moved))["energy"]
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("name", NAMES)
def test_forces_are_derivatives(name: str) -> None:
    model, data = build(name).double(), random_molecule(4, seed=3)
    data.pos = data.pos.double()
    forces = model.predict(data)["forces"]
    step = 1e-5
    for atom in range(4):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                shifted = data.clone()
                shifted.pos[atom, axis] += sign * step
                energies.append(model.predict(shifted, forces=False)["energy"].item())
            numerical = -(energies[0] - energies[1]) / (2 * step)
            assert forces[atom, axis].item() == pytest.approx(numerical, abs=1e-6)


def test_convolution_is_nnconv() -> None:
    """Values and gradients, on edges of any graph, with an atom that has none."""
    module = importlib.import_module("baselines.enn_s2s")
    conv = build("EnnS2S").conv.double()
    batch = torch.tensor([0, 0, 0, 1, 2, 2])
    edges = torch.tensor([[0, 1, 2, 2, 5], [1, 0, 1, 0, 4]])
    distance = torch.rand(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, distance, *conv.parameters()]
    pairs = module.Pairs.of(conv, edges, distance, batch, 4)
    weights = torch.randn(6, 6, dtype=torch.float64)
    results = [conv(x, edges, distance[:, None]), module.convolve(conv, x, pairs)]
    torch.testing.assert_close(results[1], results[0])
    expected, found = (torch.autograd.grad((r * weights).sum(), inputs) for r in results)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_intensive_property_is_no_sum(name: str) -> None:
    """Two copies far apart: twice the energy of DTNN, the same mean."""
    data = random_molecule(4, seed=1)
    twice = Data(z=data.z.repeat(2), pos=torch.cat([data.pos, data.pos + 15.0]))
    if name == "DTNN":  # its Gaussians end at 19 angstrom, where distances leave biases alone
        model = build(name)
        model.interaction.filters.bias.data.zero_()
        one, two = (model.predict(d)["energy"].item() for d in (data, twice))
        assert two == pytest.approx(2 * one, rel=1e-5)
    model = build(name, readout="mean", target="gap")
    with torch.no_grad():
        model.readout.lin2.weight.zero_()
        model.readout.lin2.bias.fill_(3.0)
    model.readout.offsets.set(mean=1.0, std=2.0)
    assert model.predict(data)["gap"].item() == pytest.approx(7.0)
    assert model.predict(twice)["gap"].item() == pytest.approx(7.0)


@pytest.mark.parametrize("name", NAMES)
def test_settings_count_or_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"'cutoff' of 30.0 \(got 5.0\): leave it out"):
        build(name, cutoff=5.0)
    model = type(build(name))(mean=3.0, std=0.5, atomref=torch.arange(10.0))
    offsets = model.readout.offsets
    assert (offsets.mean, offsets.std, offsets.atomref[6]) == (3.0, 0.5, 6.0)


def test_initial_weights_of_dtnn() -> None:
    """A new network says the atom references; embeddings have the variance of the paper."""
    torch.manual_seed(0)
    model = importlib.import_module("baselines.dtnn").DTNN()
    model.reset_parameters()
    model.readout.offsets.set(mean=0.5, atomref=torch.arange(10.0))
    data = random_molecule(5, seed=0)
    assert model.predict(data)["energy"].item() == pytest.approx(data.z.sum().item() + 2.5)
    variance = model.embedding.weight[1:].var().item()
    assert variance == pytest.approx(30**-0.5, rel=0.1)
    assert not model.embedding.weight[0].any()


def test_padding_atoms() -> None:
    data = random_molecule(4, seed=2)
    padded = Data(z=torch.cat([data.z, torch.tensor([0])]), pos=torch.cat([data.pos, data.pos[:1]]))
    padded.pos[-1] += 0.7
    model = build("DTNN")
    torch.testing.assert_close(model.predict(padded)["energy"], model.predict(data)["energy"])
    with pytest.raises(ValueError, match="no padding atoms"):
        build("EnnS2S").predict(padded)


@pytest.mark.parametrize("name", NAMES)
def test_coincident_atoms_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="at the same place"):
        build(name)(torch.tensor([6, 1]), torch.zeros(2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_training(name: str, tmp_path) -> None:
    """It learns by the package's loop, resumes, and is what is saved."""
    sample = QM9Sample(targets=["U0"], units="kcal/mol")
    train, val = sample[:8], sample[8:16]
    model = build(name, hidden_channels=16)
    model.reset_parameters()
    model.readout.offsets.set()
    settings = {"label": "U0", "lr": 1e-2, "batch_size": 8, "ema_decay": 0.9, "eval_epochs": 20}
    fit(model, train, val, TrainConfig(max_steps=30, **settings), tmp_path)
    config = TrainConfig(max_steps=100, **settings)
    history = fit(model, train, val, config, tmp_path, resume=True)
    assert [row["step"] for row in history] == [20, 30, 40, 60, 80, 100]
    assert history[-1]["train_loss"] < 0.3 * history[0]["train_loss"]
    loaded = type(model).load(tmp_path / "best.safetensors")
    assert repr(loaded) == repr(model)
    assert evaluate(loaded, val, "U0").mae == min(row["val_mae"] for row in history)


@pytest.mark.parametrize("name", NAMES)
def test_training_on_forces(name: str) -> None:
    """Second derivatives: a step lowers the loss of the batch it was made for."""
    frames = MD17Sample("ethanol")[:8]
    model = build(name)
    model.readout.offsets.set()
    settings = {"lr": 1e-3, "batch_size": 8, "ema_decay": 0.0}
    config = TrainConfig.paper(forces=True, max_steps=12, **settings)
    losses = [row["train_loss"] for row in fit(model, frames, frames, config)]
    assert losses[-1] < losses[0]


def test_given_edges_count() -> None:
    """Fewer edges are another graph, in both networks."""
    data = random_molecule(6, seed=4)
    edges = radius_graph(data.pos, 2.0)
    for name in NAMES:
        model = build(name)
        whole, part = model(data.z, data.pos), model(data.z, data.pos, edge_index=edges)
        assert not torch.allclose(whole, part)
