"""Outputs equal those of PyG's own SchNet with the same weights."""

import pytest
import torch
from molecules import RTOL, random_molecule
from torch_geometric.data import Batch
from torch_geometric.nn import SchNet as PyGSchNet

from pyg_schnet import SchNet, edge_lengths, radius_graph


def graph(pos, batch):
    """PyG's default needs pyg-lib, so it is given its edges."""
    edge_index = radius_graph(pos, 4.0, batch)
    return edge_index, edge_lengths(pos, edge_index)


def pyg_model(dtype, **settings) -> PyGSchNet:
    torch.manual_seed(1)
    defaults = dict(hidden_channels=32, num_filters=24, num_interactions=3, num_gaussians=20)
    model = PyGSchNet(**defaults, cutoff=4.0, interaction_graph=graph, **settings)
    for p in model.parameters():  # biases start at zero, where a mistake would not show
        torch.nn.init.normal_(p, std=0.3)
    return model.to(dtype)


CASES = {
    "plain": {},
    "offsets": dict(mean=-4.2, std=1.7, atomref=torch.linspace(-5, 5, 100).view(-1, 1)),
    "std without mean": dict(std=3.0),
    "mean over atoms": dict(readout="mean", mean=-4.2, std=1.7),
}


@pytest.mark.parametrize("mode", ["exact", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_energies_and_forces(settings, dtype, mode):
    theirs = pyg_model(dtype, **settings)
    ours = SchNet.from_pyg(theirs)
    ours.mode = mode
    data = Batch.from_data_list([random_molecule(n, seed=n, dtype=dtype) for n in (9, 1, 14)])
    pos = data.pos.clone().requires_grad_()
    energy = theirs(data.z, pos, data.batch)
    forces = -torch.autograd.grad(energy.sum(), pos)[0]
    result = ours.predict(data)
    rtol = RTOL[dtype]
    assert torch.allclose(result["energy"], energy.squeeze(1).double(), rtol=rtol)
    if mode == "auto" and dtype == torch.float32:  # filters from tables
        rtol = 5e-5
    assert (result["forces"] - forces).abs().max() <= rtol * forces.abs().max()
    assert forces.abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dipole(dtype):
    theirs = pyg_model(dtype, dipole=True)
    ours = SchNet.from_pyg(theirs)
    data = random_molecule(9, dtype=dtype)
    expected = theirs(data.z, data.pos)
    assert torch.allclose(ours(data.z, data.pos), expected.double(), rtol=RTOL[dtype])


@pytest.mark.parametrize("dipole", [False, True])
def test_scale_of_pretrained_models(dipole):
    theirs = pyg_model(torch.float64, dipole=dipole)
    if not dipole:
        theirs.mean, theirs.std = 0.7, 2.0
    theirs.scale = 0.37
    data = random_molecule(9)
    expected = theirs(data.z, data.pos)
    assert torch.allclose(SchNet.from_pyg(theirs)(data.z, data.pos), expected, rtol=1e-10)


def test_ready_to_train_and_to_save(tmp_path):
    theirs = pyg_model(torch.float32)
    before = {name: p.clone() for name, p in theirs.named_parameters()}
    ours = SchNet.from_pyg(theirs)
    data = random_molecule(5, dtype=torch.float32)
    ours(data.z, data.pos).sum().backward()
    torch.optim.SGD(ours.parameters(), lr=1.0).step()
    assert all(torch.equal(p, before[name]) for name, p in theirs.named_parameters())
    ours.save(tmp_path / "model.safetensors")
    loaded = SchNet.load(tmp_path / "model.safetensors", interaction_graph=graph)
    assert torch.equal(loaded(data.z, data.pos), ours(data.z, data.pos))


def test_species_beyond_the_table_of_pyg():
    ours = SchNet.from_pyg(pyg_model(torch.float32))
    with pytest.raises(ValueError, match="not trained on atomic number 100"):
        ours(torch.tensor([100]), torch.zeros(1, 3))


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"expected a torch_geometric.nn.SchNet \(got Linear\)"):
        SchNet.from_pyg(torch.nn.Linear(2, 2))
    model = PyGSchNet(readout="max", interaction_graph=graph)
    with pytest.raises(ValueError, match="cannot copy the readout MaxAggregation"):
        SchNet.from_pyg(model)
