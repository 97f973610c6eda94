"""Filters on knots beside filters on edges: same weights, same numbers, same training."""

import copy

import pytest
import torch
from molecules import Oscillating, random_molecule
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer

from pyg_schnet import SchNet, SchNetConv, edge_lengths, forces_from_energy, radius_graph
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.nn import GaussianFilter
from pyg_schnet.nn.tables import knots_of, table_of
from pyg_schnet.ops import EdgePlan
from pyg_schnet.ops.table import Knots, locate, spline_basis

FILTERS = {
    "paper": dict(
        num_gaussians=300,
        cutoff=30.0,
        gamma=10.0,
        gaussian_range=(0.0, 29.9),
        envelope="none",
        num_activations=2,
    ),
    "PyG": dict(num_gaussians=50, cutoff=10.0),
    "short": dict(num_gaussians=20, cutoff=5.0),
    "polynomial": dict(num_gaussians=50, cutoff=6.0, envelope="polynomial", num_activations=2),
}
NETWORKS = {
    "paper": dict(FILTERS["paper"], lin1_bias=True),
    "PyG": dict(num_gaussians=50, cutoff=10.0),
    "short": dict(num_gaussians=20, cutoff=5.0),
}


def network(name: str, **settings) -> SchNet:
    torch.manual_seed(0)
    return SchNet(32, 32, 3, **(NETWORKS[name] | settings))


@pytest.fixture(scope="module")
def molecules() -> Batch:
    dataset = QM9Sample()
    batch = Batch.from_data_list([dataset[i] for i in range(900, 908)])
    batch.pos = batch.pos.double()
    return batch


def interpolate(d: torch.Tensor, table: torch.Tensor, knots: Knots, order: int = 0) -> torch.Tensor:
    index, offset, inside = locate(d, knots)
    taps = spline_basis(offset, knots.spacing, order)  # [E, 4]
    rows = table[index.unsqueeze(1) + torch.arange(4)]  # [E, 4, F]
    return (taps.unsqueeze(2) * rows).sum(dim=1) * inside.unsqueeze(1)


def trained(model: SchNet, batch: Batch, steps: int = 100) -> SchNet:
    """A model whose filters have moved away from their initial, smooth ones."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(batch.num_graphs, 1, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(batch.z, batch.pos, batch.batch) - target).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("reach", [None, 4.3])
def test_interpolation_over_the_whole_range(name, reach):
    torch.manual_seed(1)
    f = GaussianFilter(16, **FILTERS[name]).double()
    for lin in (f.lin1, f.lin2):
        nn.init.normal_(lin.bias, std=0.5)
    knots = knots_of(f) if reach is None else knots_of(f).covering(reach)
    table = table_of(f, knots, torch.float64, torch.device("cpu"))
    d = torch.linspace(0, knots.stop, 30_011, dtype=torch.float64)
    exact, slope = torch.autograd.functional.jvp(f, d, torch.ones_like(d))
    inside = d < knots.stop if knots.vanishes else d <= knots.stop
    error = (interpolate(d, table, knots) - exact)[inside].abs().max() / exact.abs().max()
    slope_error = (interpolate(d, table, knots, 1) - slope)[inside].abs().max() / slope.abs().max()
    assert error < 1e-6
    assert slope_error < 1e-4
    if knots.vanishes:
        beyond = torch.tensor([knots.stop, knots.stop + 0.01, 2 * knots.stop]).double()
        assert not interpolate(beyond, table, knots).any()


def test_constants_follow_dtype_and_knots():
    f = GaussianFilter(4, 20, 5.0)
    knots = knots_of(f)
    for dtype in (torch.float32, torch.float64, torch.float32):
        f = f.to(dtype)
        for k in (knots, knots.halved(), knots.covering(2.0)):
            table = f.table(k)
            assert table.dtype == dtype
            at_knots = (table[:-2] + 4 * table[1:-1] + table[2:]) / 6
            assert torch.allclose(at_knots, f(k.positions(dtype)), atol=1e-5)


@pytest.mark.parametrize("weights", ["random", "trained"])
@pytest.mark.parametrize("name", NETWORKS)
def test_energies_and_forces_in_float64(name, weights, molecules):
    model = network(name).double()
    if weights == "trained":
        model = trained(model, molecules)
    model.mode = "exact"
    exact = model.predict(molecules)
    model.mode = "table"
    for result in (model.predict(molecules), model.freeze().predict(molecules)):
        error = (result["energy"] - exact["energy"]).abs().max()
        assert 0 < error < 1e-6 * exact["energy"].abs().max()
        force_error = (result["forces"] - exact["forces"]).abs().max()
        assert 0 < force_error < 5e-5 * exact["forces"].abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_all_modes_have_the_same_parameters(name):
    states = [network(name, mode=mode).state_dict() for mode in ("auto", "exact", "table")]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)


def test_auto_is_exact_in_float64_and_interpolates_in_float32(molecules):
    conv = SchNetConv(8, 8)
    edges = radius_graph(molecules.pos, 10.0, molecules.batch)
    assert conv.tabulates(torch.zeros(3, 8), edges)
    assert not conv.double().tabulates(torch.zeros(3, 8).double(), edges)
    assert not conv.to(torch.bfloat16).tabulates(torch.zeros(3, 8), edges)


@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_written_out_derivative_equals_autograd(name, readout, molecules):
    model = network(name, readout=readout, mean=-3.0, std=1.7, mode="table").double()
    data = molecules.clone()
    data.z[5] = 0  # padding
    pos = data.pos.clone().requires_grad_()
    energy = model(data.z, pos, data.batch)
    forces = forces_from_energy(energy, pos)
    result = model.predict(data, energies=True, features=True)
    assert torch.allclose(result["energy"], energy.squeeze(1).detach(), rtol=1e-13)
    assert torch.allclose(result["forces"], forces, rtol=1e-9, atol=1e-12)
    hooked = copy.deepcopy(model)
    hooked.interactions[0].register_forward_hook(lambda *_: None)  # goes through autograd
    by_autograd = hooked.predict(data, energies=True, features=True)
    for key, value in by_autograd.items():
        assert torch.allclose(result[key], value, rtol=1e-9, atol=1e-12)


def test_hooks_and_exchanged_parts_are_respected(molecules):
    model = network("PyG")
    plain = model.predict(molecules)["energy"]
    called = []
    model.interactions[1].conv.register_message_forward_hook(lambda *_: called.append(1))
    model.predict(molecules)
    assert called
    model = network("PyG")
    handle = model.interactions[0].register_forward_hook(lambda module, args, out: 0 * out)
    assert not torch.allclose(model.predict(molecules)["energy"], plain)
    handle.remove()
    assert torch.equal(model.predict(molecules)["energy"], plain)


def test_explainer():
    conv = SchNetConv(4, 4, cutoff=5.0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x, edge_index, edge_weight):
            return self.conv(x, edge_index, edge_weight)

    data = random_molecule(6, dtype=torch.float32)
    edge_index = radius_graph(data.pos, 5.0)
    explainer = Explainer(
        Model(),
        algorithm=GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        node_mask_type="object",
        model_config=dict(mode="regression", task_level="node", return_type="raw"),
    )
    explanation = explainer(
        torch.randn(6, 4), edge_index, edge_weight=edge_lengths(data.pos, edge_index)
    )
    assert explanation.edge_mask.shape == (edge_index.size(1),)
    assert explanation.edge_mask.std() > 0


@pytest.mark.slow
def test_training_on_knots_follows_training_on_edges(molecules):
    """Loss curves agree within 1 % over 200 steps."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(molecules.num_graphs, 1, generator=generator, dtype=torch.float64)
    curves = {}
    for mode in ("exact", "table"):
        model = network("short", mode=mode).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = (model(molecules.z, molecules.pos, molecules.batch) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves[mode] = torch.tensor(losses)
    assert curves["exact"][-1] < 0.5 * curves["exact"][0]
    assert ((curves["table"] - curves["exact"]).abs() < 0.01 * curves["exact"]).all()


def test_forces_along_a_bond_have_no_kinks():
    """Steps of a tenth of the knot spacing; the second difference of the force stays smooth."""
    model = network("short", mode="table").double().freeze()
    spacing = knots_of(model.interactions[0].conv.filter).spacing
    z = torch.tensor([6, 8])
    distance = torch.arange(1.0, 1.6, spacing / 10, dtype=torch.float64)
    pos = torch.zeros(len(distance), 2, 3, dtype=torch.float64)
    pos[:, 1, 0] = distance
    scan = Batch.from_data_list([Data(z=z, pos=p) for p in pos])
    result = model.predict(scan)
    force = result["forces"][1::2, 0]
    energy = result["energy"]
    numeric = -(energy[2:] - energy[:-2]) / (distance[2:] - distance[:-2])
    assert torch.allclose(numeric, force[1:-1], rtol=1e-4, atol=1e-4)
    curvature = force.diff().diff()
    # A kink would stand out among its neighbours at every tenth step.
    jumps = (curvature[1:] - curvature[:-1]).abs()
    assert jumps.max() < 0.5 * curvature.abs().max()
    model.mode = "exact"
    exact = model.predict(scan)["forces"][1::2, 0]
    assert torch.allclose(force, exact, rtol=5e-5, atol=5e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("mode", ["exact", "table"])
def test_one_atom_no_edges_no_atoms(mode):
    model = network("PyG", mode=mode).double()
    single = model.predict(Data(z=torch.tensor([6]), pos=torch.zeros(1, 3).double()))
    assert single["energy"].isfinite().all()
    assert not single["forces"].any()
    far = Data(z=torch.tensor([6, 6]), pos=torch.tensor([[0.0, 0, 0], [50.0, 0, 0]]).double())
    assert torch.allclose(model.predict(far)["energy"], 2 * single["energy"])
    nothing = model.predict(
        Data(z=torch.empty(0, dtype=torch.long), pos=torch.empty(0, 3).double())
    )
    assert nothing["energy"].tolist() == [0.0]


@pytest.mark.slow
def test_thousands_of_atoms():
    """A row of the same cluster, far apart: the energy is that many times as large."""
    cluster = random_molecule(30)
    shifts = torch.arange(100, dtype=torch.float64).view(-1, 1, 1) * torch.tensor([100.0, 0, 0])
    pos = (cluster.pos + shifts).reshape(-1, 3)
    many = Data(z=cluster.z.repeat(100), pos=pos)
    model = network("short", mode="table").double()
    one, all_of_them = model.predict(cluster), model.predict(many)
    assert torch.allclose(all_of_them["energy"], 100 * one["energy"])
    expected = one["forces"].repeat(100, 1)
    assert torch.allclose(
        all_of_them["forces"], expected, atol=1e-9 * float(expected.detach().abs().max())
    )


@pytest.mark.parametrize("mode", ["exact", "table"])
def test_coincident_atoms_are_an_error(mode):
    model = network("PyG", mode=mode)
    data = Data(z=torch.tensor([6, 8, 1]), pos=torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0]]))
    with pytest.raises(ValueError, match="atoms 1 and 2 are at the same place"):
        model.predict(data)
    with pytest.raises(ValueError, match="atoms 1 and 2 are at the same place"):
        model(data.z, data.pos)


@pytest.mark.parametrize("mode", ["exact", "table"])
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_directed_and_bipartite_graphs(mode, flow):
    """Plain message passing is the reference, for values and for every gradient."""
    torch.manual_seed(0)
    neighbor = 0 if flow == "source_to_target" else 1
    edge_index = torch.tensor([[0, 1, 2, 3, 0, 4], [1, 0, 0, 2, 5, 5]])
    if neighbor == 1:
        edge_index = edge_index.flip(0)
    conv = SchNetConv(3, 4, 5, num_gaussians=10, cutoff=4.0, flow=flow, mode=mode).double()
    plain = copy.deepcopy(conv)
    plain.mode = "exact"
    plain.register_message_forward_hook(lambda *_: None)
    inputs = [
        torch.randn(5, 3, dtype=torch.float64),
        torch.rand(6, dtype=torch.float64) * 3 + 0.5,
    ]
    size = (5, 7) if neighbor == 0 else (7, 5)
    results = []
    for layer in (conv, plain):
        x, d = (value.clone().requires_grad_() for value in inputs)
        pair = (x, None) if neighbor == 0 else (None, x)
        out = layer(pair, edge_index, d, size=size)
        gradients = torch.autograd.grad(out.sin().sum(), [x, d, *layer.parameters()])
        results.append((out, *gradients))
    assert results[0][0].shape == (7, 4)
    for ours, expected in zip(*results, strict=True):
        tolerance = 1e-12 if mode == "exact" else 2e-4
        assert torch.allclose(ours, expected, atol=tolerance * float(expected.detach().abs().max()))


def test_pairs_share_their_filter_in_exact_mode(molecules, monkeypatch):
    model = network("PyG", mode="exact").double()
    seen = []
    forward = GaussianFilter.forward
    monkeypatch.setattr(
        GaussianFilter, "forward", lambda self, d: (seen.append(len(d)), forward(self, d))[1]
    )
    num_edges = radius_graph(molecules.pos, 10.0, molecules.batch).size(1)
    model(molecules.z, molecules.pos, molecules.batch)
    assert seen == [num_edges // 2] * 3


def test_a_plan_of_the_user_gives_gradients_per_edge():
    """Both directions have the same distance, but are different variables here."""
    conv = SchNetConv(3, 4, cutoff=4.0, mode="exact").double()
    data = random_molecule(5)
    edge_index = radius_graph(data.pos, 4.0)
    d = edge_lengths(data.pos, edge_index).requires_grad_()
    plan = EdgePlan.build(edge_index, 5, d)
    assert plan.symmetric
    x = torch.randn(5, 3).double()
    (by_plan,) = torch.autograd.grad(conv(x, plan, d).square().sum(), d)
    (by_edges,) = torch.autograd.grad(conv(x, edge_index, d).square().sum(), d)
    assert torch.allclose(by_plan, by_edges)


def test_own_filter_with_tables():
    torch.manual_seed(0)
    table = SchNetConv(3, 4, filter=Oscillating(4), mode="table").double()
    exact = copy.deepcopy(table)
    exact.mode = "exact"
    x = torch.randn(4, 3, dtype=torch.float64)
    edge_index = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 0, 2, 3]])
    # 0.2 and 0.4 are below d_min, where the filter is evaluated exactly.
    d = torch.tensor([0.2, 0.4, 0.51, 3.0, 7.9], dtype=torch.float64)
    results = []
    for conv in (table, exact):
        e = d.clone().requires_grad_()
        out = conv(x, edge_index, e)
        results.append((out, *torch.autograd.grad(out.sin().sum(), [e, conv.filter.weight])))
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, atol=1e-4 * float(expected.detach().abs().max()))


def test_filters_without_tables():
    with pytest.raises(ValueError, match="the filter Linear offers no table"):
        SchNetConv(3, 4, filter=nn.Linear(1, 4), mode="table")
    with pytest.raises(ValueError, match="'mode' must be one of"):
        SchNetConv(3, 4, mode="fast")
    with pytest.raises(ValueError, match="offers no table"):
        SchNetConv(3, 4, filter=nn.Linear(1, 4)).freeze()
    with pytest.raises(ValueError, match="must have a 'd_max' to be frozen"):
        SchNetConv(3, 4, filter=Oscillating(4)).freeze()


def test_several_threads_share_a_model():
    from concurrent.futures import ThreadPoolExecutor

    model = network("PyG")
    batches = [random_molecule(n, seed=n, dtype=torch.float32) for n in (3, 20, 60)]
    expected = [model.predict(data)["energy"] for data in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            results = pool.map(lambda data: model.predict(data)["energy"], batches * 4)
            assert all(map(torch.equal, results, expected * 4))


def test_plans_for_other_distances():
    conv = SchNetConv(3, 4, cutoff=5.0, mode="table").double()
    data = random_molecule(6)
    edge_index = radius_graph(data.pos, 100.0)
    short = edge_lengths(0.3 * data.pos, edge_index)
    plan = EdgePlan.build(edge_index, 6, short, knots_of(conv.filter).covering(float(short.max())))
    x, d = torch.randn(6, 3).double(), edge_lengths(data.pos, edge_index)
    assert torch.allclose(conv(x, plan, d), conv(x, edge_index, d))
    with pytest.raises(ValueError, match="the same in both directions"):
        conv(x, plan, d + torch.rand_like(d))
