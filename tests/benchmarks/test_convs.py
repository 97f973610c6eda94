"""The study of convolutions: all networks are the same but for the layer in question."""

import json

import pytest
import torch
from molecules import random_molecule
from suites import arguments

from pyg_schnet import SchNet

# Weights of one layer with 64 channels and 50 edge features, counted by hand: dense layers of m
# inputs and n outputs have m * n, and n biases.
MLP = 50 * 64 + 64
SCHNET = 64 * 64 + (64 * 64 + 64) + MLP + 64 * 64 + 64
PARAMETERS = {
    "SchNetConv": SCHNET,
    "CFConv": SCHNET,
    "NNConv": MLP + (64 * 4096 + 4096) + 64 * 64 + 64,
    "CGConv": 2 * ((2 * 64 + 50) * 64 + 64),
    "GINEConv": 2 * (64 * 64 + 64) + 50 * 64 + 64,
    "GATv2Conv": 2 * (64 * 64 + 64) + 50 * 64 + 64 + 64,
    "TransformerConv": 4 * (64 * 64 + 64) + 50 * 64,
}


@pytest.fixture
def convs(load):
    return load("convs")


def build(convs, name: str) -> SchNet:
    torch.manual_seed(0)
    return convs.VARIANTS[name].build().double()


def test_names(convs):
    assert set(convs.VARIANTS) == set(PARAMETERS)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameters(convs, name):
    rest = 101 * 64 + 3 * (64 * 64 + 64) + (64 * 32 + 32) + (32 + 1)
    found = sum(parameter.numel() for parameter in build(convs, name).parameters())
    assert found == rest + 3 * PARAMETERS[name]


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_symmetries(convs, name):
    """Energies do not depend on the order of the atoms nor on the orientation; on shape they do."""
    model, data = build(convs, name), random_molecule(9)
    energy = model.predict(data, forces=False)["energy"]
    order = torch.randperm(9)
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    moved = data.clone()
    data.z, data.pos = data.z[order], data.pos[order] @ matrix.T
    assert torch.allclose(model.predict(data, forces=False)["energy"], energy, rtol=1e-9)
    moved.pos = 1.2 * moved.pos
    assert (model.predict(moved, forces=False)["energy"] - energy).abs().item() > 1e-4


def test_cfconv_computes_the_same(convs):
    """PyG's layer is another implementation of ours: with the same weights, the same energies."""
    ours, theirs = build(convs, "SchNetConv"), build(convs, "CFConv")
    theirs.embedding.load_state_dict(ours.embedding.state_dict())
    theirs.readout.load_state_dict(ours.readout.state_dict())
    for one, other in zip(ours.interactions, theirs.interactions):
        conv = other.conv.conv
        pairs = [(one.lin, other.lin), (one.conv.lin1, conv.lin1), (one.conv.lin2, conv.lin2)]
        pairs += [(one.conv.filter.lin1, conv.nn[0]), (one.conv.filter.lin2, conv.nn[2])]
        for source, target in pairs:
            target.load_state_dict(source.state_dict())
    data = random_molecule(12)
    expected = ours.predict(data)
    found = theirs.predict(data)
    assert torch.allclose(found["energy"], expected["energy"], rtol=1e-8)
    assert torch.allclose(found["forces"], expected["forces"], atol=1e-6)


@pytest.mark.slow
def test_quick(convs, tmp_path, monkeypatch):
    monkeypatch.setattr(convs.studies, "TURNS", 1)
    path = tmp_path / "convs.json"
    convs.run(arguments(convs, "--quick", "--json", str(path)))
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows.values()] == list(PARAMETERS)
    for row in rows.values():
        assert row["step"] == 10
        assert row["config"]["lr"] == 1e-3
    text = path.with_suffix(".md").read_text()
    assert "recipe `fast at 0.001`, 10steps" in text
    assert "68,097" in text
