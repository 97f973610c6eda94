"""The study of filters: its filters are what it says, and what it measures is right."""

import json
import math
from pathlib import Path

import pytest
import torch
from molecules import random_molecule
from suites import arguments
from torch_geometric.data import Batch

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.datasets import QM9Sample

NAMES = [
    *("paper", "one activation", "raw distance", "vectors", "bins", "Bessel", "spacing 0.2"),
    *("spacing 0.5", "centres to 5 A", "cosine 10 A", "cosine 5 A", "polynomial 5 A"),
    *("cut at 5 A", "Bessel 5 A", "attention"),
]


@pytest.fixture
def filters(load):
    return load("filters")


@pytest.fixture
def variants(load):
    return load("variants")


def build(filters, name: str) -> SchNet:
    torch.manual_seed(0)
    return filters.VARIANTS[name].build().double()


def test_names(filters):
    assert list(filters.VARIANTS) == NAMES
    torch.manual_seed(0)
    reference = SchNet.paper().double()
    paper = build(filters, "paper")
    assert str(paper.state_dict()) == str(reference.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_symmetries(filters, name):
    """Only filters of vectors feel a rotation; no network feels the order of the atoms."""
    model = build(filters, name)
    data = random_molecule(9)
    energy = model.predict(data, forces=False)["energy"]
    order = torch.randperm(9)
    turned, moved = data.clone(), data.clone()
    data.z, data.pos = data.z[order], data.pos[order]
    assert torch.allclose(model.predict(data, forces=False)["energy"], energy, rtol=1e-10)
    (matrix,) = filters.rotations(1, torch.Generator().manual_seed(1))
    turned.pos = turned.pos @ matrix.T
    change = (model.predict(turned, forces=False)["energy"] - energy).abs().item()
    assert change > 1e-3 if name == "vectors" else change < 1e-9
    moved.pos = 1.2 * moved.pos
    assert (model.predict(moved, forces=False)["energy"] - energy).abs().item() > 1e-4


def test_rotations(filters):
    matrices = filters.rotations(2_000, torch.Generator().manual_seed(0))
    unity = torch.eye(3, dtype=torch.float64).expand(2_000, 3, 3)
    assert torch.allclose(matrices @ matrices.transpose(1, 2), unity, atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(2_000, dtype=torch.float64))
    # Uniform: an axis points anywhere, and the mean angle (1 + 2 cos = trace) is that of SO(3).
    assert matrices.mean(dim=0).abs().max() < 0.05
    angle = ((matrices.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1).acos()
    assert angle.mean().item() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.05)


def test_measured_rotation(filters):
    molecules = QM9Sample(targets=["U0"], units="kcal/mol")[:20]
    turned = filters.rotation(build(filters, "vectors"), molecules, "U0")
    kept = filters.rotation(build(filters, "paper"), molecules, "U0")
    assert turned["rotation_change"] > 1e-2
    assert kept["rotation_change"] < 1e-8
    assert abs(kept["rotation_added_mae"]) < 1e-8
    batch = Batch.from_data_list(list(molecules))
    model = build(filters, "vectors")
    batch.pos = batch.pos.double()
    matrices = filters.rotations(20, torch.Generator().manual_seed(0))[batch.batch]
    errors = []
    for pos in (batch.pos, torch.einsum("nij,nj->ni", matrices, batch.pos)):
        batch.pos = pos
        errors.append((model.predict(batch, forces=False)["energy"] - batch.y[:, 0]).abs().mean())
    assert turned["rotation_added_mae"] == pytest.approx((errors[1] - errors[0]).item(), rel=1e-6)


def test_binned_filter_is_a_lookup(variants):
    filter = variants.BinnedFilter(4, 5, 2.5)
    assert filter(torch.tensor([0.0, 0.49, 0.51, 2.49])).equal(filter.weight[[0, 0, 1, 4]])
    filter(torch.tensor([0.6, 0.7])).sum().backward()
    assert filter.weight.grad.sum(dim=1).tolist() == [0.0, 8.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"2.6 A is beyond the last bin, which ends at 2.5 A"):
        filter(torch.tensor([2.6]))


def test_attention_by_hand(filters):
    """Weights are the softmax, over the neighbours, of a linear function of the message."""
    conv = build(filters, "attention").interactions[0].conv
    data = random_molecule(5)
    edges = radius_graph(data.pos, 30.0)
    lengths = (data.pos[edges[0]] - data.pos[edges[1]]).norm(dim=1)
    x = torch.randn(5, 64, dtype=torch.float64)
    out = conv(x, edges, lengths)
    gate = conv.aggr_module.gate_nn
    for i in range(5):
        into = edges[1] == i
        message = conv.lin1(x)[edges[0][into]] * conv.filter(lengths[into])
        weights = gate(message).softmax(dim=0)
        assert torch.allclose(out[i], conv.lin2((weights * message).sum(dim=0)))


def test_neighbours_end_at_5_angstrom(filters):
    model = build(filters, "cut at 5 A")
    z, one = torch.tensor([6, 8]), torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)

    def energy(distance: float) -> float:
        return model(z, torch.cat([one, one + torch.tensor([distance, 0.0, 0.0])])).item()

    alone = model(z[:1], one).item() + model(z[1:], one).item()
    assert energy(5.01) == pytest.approx(alone, abs=1e-10)
    assert abs(energy(4.99) - alone) > 1e-4
    # Those with an envelope fade out.
    model = build(filters, "cosine 5 A")
    alone = model(z[:1], one).item() + model(z[1:], one).item()
    assert abs(energy(4.9999) - alone) < 1e-6


def test_how_alike_filters_are(filters):
    found = {name: filters.alike(build(filters, name).float())["alike"] for name in NAMES}
    assert found["raw distance"] > 0.9
    assert found["paper"] < 0.4
    assert all(0 < value < 1 for value in found.values())
    model = build(filters, "bins").float()
    torch.nn.init.ones_(model.interactions[0].conv.filter.weight)
    with torch.no_grad():
        model.interactions[0].conv.filter.weight *= torch.linspace(0, 1, 300).unsqueeze(1)
    assert filters.alike(model)["alike"] == pytest.approx(1.0)


def run_quick(filters, path: Path, monkeypatch, *only: str) -> dict[str, dict]:
    monkeypatch.setattr(filters.studies, "TURNS", 1)
    words = ["--quick", "--json", str(path), *(["--only", *only] if only else [])]
    filters.run(arguments(filters, *words))
    return json.loads(path.read_text())["rows"]


def test_quick(filters, tmp_path, monkeypatch):
    path = tmp_path / "some.json"
    rows = list(run_quick(filters, path, monkeypatch, "bins", "vectors").values())
    assert [row["name"] for row in rows] == ["bins", "vectors"]
    for row in rows:
        assert row["step"] == 10
        assert row["sizes"] == {"train": 160, "val": 30, "test": 100}
        assert 0 < row["step_ms"] < row["seconds"] * 1e3
        assert len(row["curve"]["energy_mae"]) == 1
    assert rows[0]["rotation_change"] < 1e-8 < 1e-3 < rows[1]["rotation_change"]
    assert abs(rows[0]["rotation_added_mae"]) < 1e-8
    text = path.with_suffix(".md").read_text()
    assert "| **Bessel**: 64 Bessel functions to 30 A | not run |" in text
    assert f"| {rows[0]['test']['energy_mae']:.3f} |" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "some_bins.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "some_vectors.png").exists()


@pytest.mark.slow
def test_quick_in_full(filters, tmp_path, monkeypatch):
    rows = run_quick(filters, tmp_path / "all.json", monkeypatch)
    assert [row["name"] for row in rows.values()] == NAMES
    assert "not run" not in (tmp_path / "all.md").read_text()
