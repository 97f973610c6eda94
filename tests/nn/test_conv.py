import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch_geometric.nn import SumAggregation
from torch_geometric.nn.models.schnet import CFConv
from torch_geometric.utils import to_torch_coo_tensor

from pyg_schnet import GaussianFilter, SchNetConv, edge_lengths, radius_graph


@pytest.fixture
def graph():
    """Directed, with an isolated last node."""
    torch.manual_seed(0)
    edge_index = torch.tensor([[0, 1, 2, 0, 3, 3], [1, 0, 0, 2, 1, 2]])
    return torch.randn(5, 8), edge_index, torch.rand(6) * 4


def by_hand(conv: SchNetConv, x, edge_index, edge_weight, num_targets=None):
    """The sum of the paper, edge by edge."""
    h = x @ conv.lin1.weight.T
    out = h.new_zeros(num_targets or len(x), conv.num_filters)
    W = conv.filter(edge_weight)
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        out[i] += h[j] * W[e]
    return out @ conv.lin2.weight.T + conv.lin2.bias


def test_sum_over_neighbours(graph):
    conv = SchNetConv(8, 16, 12, cutoff=5.0)
    assert str(conv) == "SchNetConv(8, 16)"
    out = conv(*graph)
    assert out.shape == (5, 16)
    assert torch.allclose(out, by_hand(conv, *graph), atol=1e-6)
    assert torch.allclose(out[4], conv.lin2.bias)  # isolated, at the end


def test_equals_cfconv_of_pyg(graph):
    x, edge_index, edge_weight = graph
    conv = SchNetConv(8, 16, 12, num_gaussians=20, cutoff=5.0)
    mlp = nn.Sequential(conv.filter.lin1, conv.filter.act, conv.filter.lin2)
    theirs = CFConv(8, 16, 12, mlp, 5.0)
    theirs.lin1.load_state_dict(conv.lin1.state_dict())
    theirs.lin2.load_state_dict(conv.lin2.state_dict())
    expected = theirs(x, edge_index, edge_weight, conv.filter.basis(edge_weight))
    assert torch.allclose(conv(*graph), expected, atol=1e-6)


def test_bipartite(graph):
    x, edge_index, edge_weight = graph
    conv = SchNetConv((8, 4), 16, 12, cutoff=5.0)
    targets = torch.randn(7, 4)
    expected = by_hand(conv, x, edge_index, edge_weight, 7)
    assert torch.allclose(conv((x, targets), edge_index, edge_weight), expected, atol=1e-6)
    out = conv((x, None), edge_index, edge_weight, size=(5, 7))
    assert torch.allclose(out, expected, atol=1e-6)
    with pytest.raises(ValueError, match="number of targets is unknown"):
        conv((x, None), edge_index, edge_weight)


def test_flow_target_to_source(graph):
    x, edge_index, edge_weight = graph
    conv = SchNetConv(8, 16, cutoff=5.0, flow="target_to_source")
    expected = by_hand(conv, x, edge_index.flip(0), edge_weight)
    assert torch.allclose(conv(*graph), expected, atol=1e-6)
    pair = SchNetConv((4, 8), 16, cutoff=5.0, flow="target_to_source")
    sources = torch.randn(7, 4)
    expected = by_hand(pair, x, edge_index.flip(0), edge_weight, 7)
    assert torch.allclose(pair((sources, x), edge_index, edge_weight), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse")  # torch on its sparse matrices
def test_sparse_adjacency_matrix(graph):
    x, edge_index, edge_weight = graph
    conv = SchNetConv(8, 16, cutoff=5.0)
    order = (edge_index[1] * 5 + edge_index[0]).argsort()
    adj = to_torch_coo_tensor(edge_index[:, order], edge_weight[order], size=(5, 5)).t().coalesce()
    assert torch.allclose(conv(x, adj, edge_weight[order]), conv(*graph), atol=1e-5)
    assert torch.allclose(conv(x, adj), conv(*graph), atol=1e-5)  # distances are its values
    pair = SchNetConv((8, 4), 16, cutoff=5.0)
    for sparse in (adj, adj.to_sparse_csr()):
        assert pair((x, None), sparse).shape == (5, 16)


def test_lazy_input_size(graph):
    conv = SchNetConv(-1, 16, 12, cutoff=5.0)
    assert conv(*graph).shape == (5, 16)
    assert conv.lin1.weight.shape == (12, 8)


def test_aggregations(graph):
    conv = SchNetConv(8, 16, cutoff=5.0)
    resolved = copy.deepcopy(conv)
    resolved.aggr_module = SumAggregation()
    assert torch.equal(conv(*graph), resolved(*graph))
    mean = SchNetConv(8, 16, cutoff=5.0, aggr="mean")
    mean.load_state_dict(conv.state_dict())
    degree = torch.tensor([2, 2, 2, 1, 1]).view(-1, 1)  # 1 where there is nothing to divide
    expected = (conv(*graph) - conv.lin2.bias) / degree + conv.lin2.bias
    assert torch.allclose(mean(*graph), expected, atol=1e-6)


def test_several_aggregations(graph):
    assert SchNetConv(8, 16, cutoff=5.0, aggr=["sum", "max"])(*graph).shape == (5, 16)


def test_distances_of_another_dtype(graph):
    x, edge_index, edge_weight = graph
    for mode in ("exact", "table"):
        conv = SchNetConv(8, 16, cutoff=5.0, mode=mode)
        out = conv(x, edge_index, edge_weight.double())
        assert torch.equal(out, conv(*graph))


def test_own_filters(graph):
    x, edge_index, edge_weight = graph

    class Binned(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 16)

        def forward(self, distance):
            return self.table(distance.long())

    assert SchNetConv(8, 16, filter=Binned())(x, edge_index, edge_weight).shape == (5, 16)

    class OfVectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 16)

        def forward(self, vector):
            return self.lin(vector)

    vectors = torch.randn(6, 3)
    assert SchNetConv(8, 16, filter=OfVectors())(x, edge_index, edge_attr=vectors).shape == (5, 16)

    class OfBoth(nn.Module):
        def forward(self, distance, attribute):
            return distance.unsqueeze(-1) * attribute

    attribute = torch.randn(6, 16)
    out = SchNetConv(8, 16, filter=OfBoth())(x, edge_index, edge_weight, attribute)
    assert out.shape == (5, 16)


def test_gradients_to_everything():
    torch.manual_seed(0)
    conv = SchNetConv(3, 2, 4, num_gaussians=5, cutoff=4.0).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    d = torch.tensor([0.7, 1.4, 2.2, 3.9], dtype=torch.float64, requires_grad=True)
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 3]])
    assert torch.autograd.gradcheck(lambda x, d: conv(x, edge_index, d), (x, d))
    assert torch.autograd.gradgradcheck(lambda x, d: conv(x, edge_index, d), (x, d))


def test_reset_parameters(graph):
    conv = SchNetConv(8, 16)
    before = copy.deepcopy(conv.state_dict())
    conv.reset_parameters()
    for name in ("lin1.weight", "lin2.weight", "filter.lin1.weight", "filter.lin2.weight"):
        assert not torch.equal(before[name], conv.state_dict()[name])


def test_state_dict_through_safetensors(tmp_path, graph):
    conv = SchNetConv(8, 16, cutoff=5.0)
    save_file(conv.state_dict(), tmp_path / "conv.safetensors")
    other = SchNetConv(8, 16, cutoff=5.0)
    other.load_state_dict(load_file(tmp_path / "conv.safetensors"))
    assert torch.equal(conv(*graph), other(*graph))


def test_parameter_count_of_the_paper_block():
    f = GaussianFilter(64, 300, 30.0, gamma=10.0, envelope="none", num_activations=2)
    conv = SchNetConv(64, 64, filter=f, lin1_bias=True)
    assert sum(p.numel() for p in conv.parameters()) == 2 * 4160 + 300 * 64 + 64 + 4160


def test_bad_input(graph):
    x, edge_index, edge_weight = graph
    conv = SchNetConv(8, 16)
    with pytest.raises(ValueError, match="needs the distances"):
        conv(x, edge_index)
    with pytest.raises(ValueError, match=r"shape \[E\] \(got \[6, 1\]\)"):
        conv(x, edge_index, edge_weight.unsqueeze(-1))
    with pytest.raises(ValueError, match=r"shape \[6\], one per edge \(got \[5\]\)"):
        conv(x, edge_index, edge_weight[:-1])
    with pytest.raises(ValueError, match=r"one row of 16 values per edge"):
        SchNetConv(8, 16, filter=GaussianFilter(15))(x, edge_index, edge_weight)
    with pytest.raises(ValueError, match="the filter takes distances only"):
        conv(x, edge_index, edge_weight, torch.randn(6, 3))
    with pytest.raises(ValueError, match="'num_filters' must be a positive whole number"):
        SchNetConv(8, 16, 5.0)
    with pytest.raises(ValueError, match=r"'out_channels' must be at least 1 \(got 0\)"):
        SchNetConv(8, 0)
    for cutoff in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"'cutoff' must be positive .* .got {cutoff}"):
            SchNetConv(8, 16, cutoff=cutoff)
    for mode in ("exact", "table"):
        with pytest.raises(ValueError, match="finite"):
            SchNetConv(8, 16, mode=mode)(x, edge_index, edge_weight * float("nan"))
    with pytest.raises(ValueError, match="decomposed_layers=1"):
        SchNetConv(8, 16, decomposed_layers=2)


def test_exact_filters_are_evaluated_once_for_a_pair():
    """From a plain edge_index too; where distances want gradients, once for each direction."""
    x, pos = torch.randn(6, 8), torch.randn(6, 3)
    edge_index = radius_graph(pos, 10.0)
    edge_weight = edge_lengths(pos, edge_index)
    conv = SchNetConv(8, 8, mode="exact")
    rows = []
    conv.filter.lin1.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    out = conv(x, edge_index, edge_weight)
    conv(x, edge_index, edge_weight.requires_grad_())
    conv(x, edge_index[:, 1:], edge_weight[1:].detach())
    assert rows == [15, 30, 29]
    W = conv.filter(edge_weight)
    u = conv.lin1(x)
    expected = torch.zeros_like(u).index_add(0, edge_index[1], u[edge_index[0]] * W)
    assert torch.allclose(out, conv.lin2(expected), atol=1e-5)


def test_sizes_and_distances_of_bipartite_graphs(graph):
    """Whatever the mode, and whether or not gradients are wanted."""
    x, edge_index, weight = graph
    pair = (torch.randn(4, 8), torch.randn(3, 2))
    edges = torch.tensor([[0, 3], [0, 2]])
    for mode in ("exact", "table"):
        conv = SchNetConv((8, 2), 16, cutoff=5.0, mode=mode)
        assert conv(pair, edges, torch.ones(2), size=(4, 3)).shape == (3, 16)
        with pytest.raises(ValueError, match=r"'size' says 6 nodes, but x\[1\] has features of 3"):
            conv(pair, edges, torch.ones(2), size=(4, 6))
        with pytest.raises(ValueError, match=r"'size' says 5 nodes, but x\[0\] has features of 4"):
            conv((pair[0], None), edges, torch.ones(2), size=(5, 3))
        with pytest.raises(ValueError, match=r"neighbours are missing: x\[0\] is None"):
            conv((None, pair[1]), edges, torch.ones(2))
        square = SchNetConv(8, 16, cutoff=5.0, mode=mode)
        for wrong in (-weight, (-weight).requires_grad_(), torch.full_like(weight, torch.nan)):
            with pytest.raises(ValueError, match=r"negative|finite"):
                square(x, edge_index, wrong)
            with pytest.raises(ValueError, match=r"negative|finite"):
                square((x, x), edge_index, wrong)
