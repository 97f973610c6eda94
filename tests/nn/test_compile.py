"""Compiled and exported models give what eager ones do."""

import pytest
import torch
from molecules import random_molecule
from torch_geometric.data import Batch

from pyg_schnet import SchNet, SchNetConv, edge_lengths, forces_from_energy, radius_graph


@pytest.fixture
def batch() -> Batch:
    return Batch.from_data_list(
        [random_molecule(n, seed=n, dtype=torch.float32) for n in (6, 9, 4)]
    )


def model(**settings) -> SchNet:
    torch.manual_seed(0)
    return SchNet(16, 16, 2, num_gaussians=10, cutoff=5.0, **settings)


def arguments(batch: Batch) -> tuple:
    return batch.z, batch.pos, batch.batch, radius_graph(batch.pos, 5.0, batch.batch)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["auto", "exact"])
@pytest.mark.parametrize("envelope", ["cosine", "polynomial", "none"])
def test_compiled_energies_and_gradients(batch, mode, envelope):
    settings = {"cutoff": 20.0} if envelope == "none" else {}
    torch.manual_seed(0)
    eager = SchNet(16, 16, 2, 10, **({"cutoff": 5.0} | settings), envelope=envelope, mode=mode)
    z, pos, index, _ = arguments(batch)
    edges = radius_graph(pos, eager.cutoff, index)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    expected = eager(z, pos, index, edges, batch_size=3)
    result = compiled(z, pos, index, edges, batch_size=3)
    assert torch.allclose(result, expected, rtol=1e-5)
    weights = list(eager.parameters())
    expected = torch.autograd.grad(expected.square().sum(), weights)
    for ours, theirs in zip(
        torch.autograd.grad(result.square().sum(), weights), expected, strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max() + 1e-6))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it between graphs
def test_compiled_without_edges_falls_back_to_eager_search(batch):
    eager = model()
    compiled = torch.compile(eager, backend="aot_eager")
    expected = eager(batch.z, batch.pos, batch.batch)
    assert torch.allclose(compiled(batch.z, batch.pos, batch.batch), expected, rtol=1e-5)


def test_padding_contributes_nothing_when_compiled(batch):
    eager = model()
    z, pos, index, edges = arguments(batch)
    z = z.clone()
    z[[2, 7]] = 0
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    expected = eager(z, pos, index, edges, batch_size=3)
    assert torch.allclose(compiled(z, pos, index, edges, batch_size=3), expected, rtol=1e-5)


@torch._dynamo.config.patch(trace_autograd_ops=True)
def test_compiled_energies_and_forces_train(batch):
    z, pos, index, edges = arguments(batch)

    def loss_of(network, pos):
        pos = pos.detach().requires_grad_()
        energy = network(z, pos, index, edges, batch_size=3)
        forces = forces_from_energy(energy, pos, create_graph=True)
        return energy.square().mean() + forces.square().sum()

    results = []
    for function in (loss_of, torch.compile(loss_of, backend="aot_eager")):
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = function(network, pos)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append(losses)
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    assert results[0][2] < results[0][0]


@pytest.mark.slow
def test_default_compiler(batch):
    """With Inductor."""
    eager = SchNet(8, 8, 1, 10, 5.0)
    z, pos, index, edges = arguments(batch)
    expected = eager(z, pos, index, edges, batch_size=3)
    result = torch.compile(eager)(z, pos, index, edges, batch_size=3)
    assert torch.allclose(result, expected, rtol=1e-5)
    result.sum().backward()


def test_compiled_models_check_what_they_cannot_compute(batch):
    eager = SchNet(16, 16, 2, 10, 20.0, envelope="none")
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    edges = radius_graph(batch.pos, 100.0, batch.batch)
    with pytest.raises(RuntimeError, match="beyond the range of the filter"):
        compiled(batch.z, 9.0 * batch.pos, batch.batch, edges, batch_size=3)
    z = batch.z.clone()
    z[3] = 0
    with pytest.raises(RuntimeError, match="take no padding atoms"):
        compiled(z, batch.pos, batch.batch, edges, batch_size=3)


def test_export(batch):
    eager = model()
    z, pos, index, edges = arguments(batch)
    program = torch.export.export(eager, (z, pos, index, edges), {"batch_size": 3})
    moved = pos + 0.1 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(0))
    expected = eager(z, moved, index, edges, batch_size=3)
    assert torch.allclose(
        program.module()(z, moved, index, edges, batch_size=3), expected, rtol=1e-5
    )


@pytest.mark.parametrize("dynamic", [None, True])
def test_layer_in_a_compiled_network(dynamic, batch):
    """Graphs of several sizes; ``dynamic=True`` makes numbers symbols, such as the cutoff."""
    conv = SchNetConv(8, 8, cutoff=5.0)
    _, pos, _, edges = arguments(batch)
    compiled = torch.compile(conv, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for atoms in (len(pos), 7):
        some = edges[:, (edges < atoms).all(dim=0)]
        x, d = torch.randn(atoms, 8, requires_grad=True), edge_lengths(pos[:atoms], some)
        found, expected = compiled(x, some, d), conv(x, some, d)
        assert torch.allclose(found, expected, atol=1e-5)
        gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected)]
        assert torch.allclose(*gradients, atol=1e-4)


def test_autocast(batch):
    """Dense layers in bfloat16, the convolution in float32."""
    eager = model()
    args = arguments(batch)
    expected = eager(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = eager(*args)
        predicted = eager.predict(batch)["energy"]
    assert torch.allclose(predicted, expected.squeeze(1).detach(), rtol=0.05, atol=0.05)
    assert torch.allclose(result, expected, rtol=0.05, atol=0.05)
    result.sum().backward()
    assert eager.interactions[0].conv.filter.lin1.weight.grad.abs().max() > 0
