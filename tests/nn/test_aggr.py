import sys

import pytest
import torch

from pyg_schnet import SchNetConv
from pyg_schnet.nn import ScatterSum


def test_equals_sum_with_two_derivatives():
    pytest.importorskip("torch_scatter", reason="torch-scatter is not installed")
    torch.manual_seed(0)
    ours = SchNetConv(3, 2, 4, num_gaussians=5, cutoff=4.0, aggr=ScatterSum()).double()
    plain = SchNetConv(3, 2, 4, num_gaussians=5, cutoff=4.0).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    d = torch.tensor([0.7, 1.4, 2.2, 3.9], dtype=torch.float64, requires_grad=True)
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 3]])  # node 4 is isolated
    assert torch.allclose(ours(x, edge_index, d), plain(x, edge_index, d), rtol=1e-12)
    assert torch.autograd.gradgradcheck(lambda x, d: ours(x, edge_index, d), (x, d))


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(ImportError, match=r"pip install pyg-schnet\[ext\]"):
        ScatterSum()
