"""The layer under the transforms of torch.func, beside reverse mode and differences."""

import copy
import io

import pytest
import torch
from molecules import random_molecule
from torch_geometric.nn.models.schnet import CFConv

from pyg_schnet import SchNet, SchNetConv, edge_lengths, radius_graph


@pytest.fixture
def graph():
    data = random_molecule(6)
    edge_index = radius_graph(data.pos, 6.0)
    torch.manual_seed(0)
    return torch.randn(6, 8), edge_index, edge_lengths(data.pos, edge_index).float()


def differences(function, weight, step=1e-5):
    """Central differences by each distance, ``[..., E]``."""
    columns = []
    for k in range(len(weight)):
        moved = torch.zeros_like(weight)
        moved[k] = step
        columns.append((function(weight + moved) - function(weight - moved)) / (2 * step))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("settings", [{}, {"mode": "exact"}, {"aggr": "mean"}], ids=str)
def test_each_distance_has_its_own_derivative(settings, graph):
    """In forward mode too, where no distance says that it wants one."""
    x, edge_index, weight = graph
    torch.manual_seed(1)
    conv = SchNetConv(8, 4, cutoff=8.0, **settings).double()
    x, weight = x.double(), weight.double()
    found = torch.func.jacfwd(lambda w: conv(x, edge_index, w))(weight)
    expected = differences(lambda w: conv(x, edge_index, w), weight)
    assert expected.abs().max() > 0.01
    assert torch.allclose(found, expected, atol=1e-7)
    reverse = torch.func.jacrev(lambda w: conv(x, edge_index, w))(weight)
    assert torch.allclose(reverse, expected, atol=1e-7)
    _, along = torch.func.jvp(lambda w: conv(x, edge_index, w), (weight,), (weight.cos(),))
    assert torch.allclose(along, expected @ weight.cos(), atol=1e-7)


@pytest.mark.parametrize("transform", ["grad", "jvp", "jacrev", "vmap"])
@pytest.mark.parametrize("envelope", ["cosine", "none"])
def test_nothing_of_a_transform_stays_in_the_layer(transform, envelope, graph):
    x, edge_index, weight = graph
    model = SchNetConv(8, 4, cutoff=9.0)
    if envelope == "none":
        model = SchNet(8, 4, 2, cutoff=9.0, envelope="none").interactions[0].conv
    plain = copy.deepcopy(model)

    def energy(x):
        return model(x, edge_index, weight).sum()

    if transform == "grad":
        torch.func.grad(energy)(x)
    elif transform == "jvp":
        torch.func.jvp(energy, (x,), (x,))
    elif transform == "jacrev":
        torch.func.jacrev(energy)(x)
    else:
        torch.func.vmap(energy)(x.expand(2, 6, 8))
    copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    with torch.no_grad():
        assert model(x, edge_index, weight).equal(plain(x, edge_index, weight))


def test_distances_in_batches(graph):
    x, edge_index, weight = graph
    conv = SchNetConv(8, 4, cutoff=8.0, mode="exact")
    several = torch.stack([weight, 0.9 * weight])
    found = torch.func.vmap(lambda w: conv(x, edge_index, w))(several)
    assert torch.allclose(found[1], conv(x, edge_index, 0.9 * weight), atol=1e-6)


def test_several_graphs_with_the_same_edges(graph):
    """``[B, N, F]``, as PyG's layers take them; also if there are fewer graphs than atoms."""
    x, edge_index, weight = graph
    conv = SchNetConv(8, 4, cutoff=8.0)
    several = torch.stack([x, x.sin(), x.cos()])
    found = conv(several, edge_index, weight)
    assert found.shape == (3, 6, 4)
    for one, expected in zip(found, several):
        assert torch.allclose(one, conv(expected, edge_index, weight), atol=1e-5)
    mlp = torch.nn.Sequential(conv.filter.lin1, conv.filter.act, conv.filter.lin2)
    theirs = CFConv(8, 4, 4, mlp, 8.0)
    theirs.lin1.load_state_dict(conv.lin1.state_dict())
    theirs.lin2.load_state_dict(conv.lin2.state_dict())
    expected = theirs(several, edge_index, weight, conv.filter.basis(weight))
    assert torch.allclose(found, expected, atol=1e-5)
