"""The operator in compiled and exported graphs, under autocast and torch.func."""

import pytest
import torch
from torch import Tensor

from pyg_schnet import ops
from pyg_schnet.ops import EdgePlan, cfconv, library, shifted_softplus

from .conftest import Case, assert_close, directed, molecules

BACKENDS = ["reference", "cpu"]


def network(x: Tensor, distances: Tensor, table: Tensor, edge_index: Tensor, case: Case) -> Tensor:
    """Two convolutions on a plan built within the graph."""
    plan = EdgePlan.build(edge_index, x.size(0), distances, case.knots)
    x = shifted_softplus(cfconv(x, distances, table, plan))
    return shifted_softplus(cfconv(x, distances, table, plan)).sum()


def energy_and_slope(x, distances, table, edge_index, case):
    energy = network(x, distances, table, edge_index, case)
    (slope,) = torch.autograd.grad(energy, distances, create_graph=True)
    return energy, slope


def loss(x, distances, table, edge_index, case):
    energy, slope = energy_and_slope(x, distances, table, edge_index, case)
    return energy + slope.square().sum()


def inputs_of(case: Case, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    x, _, table, _ = case.features(width)
    tensors = (x, case.distances.clone(), table)
    return tuple(t.requires_grad_() for t in tensors)


@pytest.mark.parametrize("case", [molecules([4, 1, 5], torch.float64), None])
def test_opcheck(case):
    case = case or directed(5, 8, 20, torch.float64)
    plan = case.plan()
    x, g, table, weight = (t.requires_grad_() for t in case.features(4))
    distances = plan.arrange(case.distances).clone().requires_grad_()
    edges = library.Compiled.of(plan).edges
    rows = table.size(0)
    y, s = torch.randn_like(x), torch.randn_like(distances)
    for operator, arguments in (
        (library.reduce, (x, distances, table, None, *edges, 0, False)),
        (library.reduce, (g, distances, table, weight, *edges, 1, True)),
        (library.product, (g, x, distances, table, *edges, 1)),
        (library.collect, (g, x, distances, weight, rows, *edges, 0)),
        (library.reduce_backward, (g, x, distances, table, *edges)),
    ):
        torch.library.opcheck(operator, arguments)
    with torch.no_grad():
        for operator, arguments in (
            (library.reduce_double_backward, (g, x, y, s, distances, table, *edges)),
            (library.collect_backward, (g, x, y, s, distances, rows, *edges)),
            (
                library.edge_plan,
                (case.edge_index, case.distances, *case.num_nodes, 0.0, float("inf")),
            ),
        ):
            torch.library.opcheck(
                operator, tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_forward_and_backward(backend):
    case = molecules([6, 1, 7], torch.float64)
    tensors = inputs_of(case)
    expected = network(*tensors, case.edge_index, case)
    grads = torch.autograd.grad(expected, tensors)
    torch._dynamo.reset()
    with ops.backend(backend):
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        actual = compiled(*tensors, case.edge_index, case)
        actual_grads = torch.autograd.grad(actual, tensors)
    assert_close(actual.detach(), expected.detach())
    for a, b in zip(actual_grads, grads):
        assert_close(a, b, factor=20)


@pytest.mark.parametrize("backend", BACKENDS)
@torch._dynamo.config.patch(trace_autograd_ops=True)
def test_compiled_function_of_energy_and_forces_trains(backend):
    case = molecules([6, 7], torch.float64)
    tensors = inputs_of(case)
    expected = loss(*tensors, case.edge_index, case)
    grads = torch.autograd.grad(expected, tensors)
    torch._dynamo.reset()
    with ops.backend(backend):
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        actual = compiled(*tensors, case.edge_index, case)
        actual_grads = torch.autograd.grad(actual, tensors)
    assert_close(actual.detach(), expected.detach(), factor=20)
    for a, b in zip(actual_grads, grads):
        assert_close(a, b, factor=50)


def test_compiled_with_a_plan_from_outside():
    for case in (molecules([6, 7], torch.float64), directed(9, 9, 30, torch.float64)):
        plan = case.plan()
        tensors = inputs_of(case)

        def function(x, distances, table, plan=plan):
            return cfconv(x, distances, table, plan)

        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_close(compiled(*tensors).detach(), function(*tensors).detach())


@pytest.mark.slow
def test_inductor():
    case = molecules([6, 1, 7], torch.float32)
    tensors = inputs_of(case)
    expected = network(*tensors, case.edge_index, case)
    torch._dynamo.reset()
    actual = torch.compile(network, fullgraph=True)(*tensors, case.edge_index, case)
    assert_close(actual.detach(), expected.detach(), factor=5)
    for a, b in zip(torch.autograd.grad(actual, tensors), torch.autograd.grad(expected, tensors)):
        assert_close(a, b, factor=20)


class Network(torch.nn.Module):
    """A network for export, in the shapes of a batch."""

    def __init__(self, case: Case):
        super().__init__()
        self.case = case

    def forward(self, x: Tensor, distances: Tensor, table: Tensor, edge_index: Tensor) -> Tensor:
        return network(x, distances, table, edge_index, self.case)


@pytest.mark.parametrize("backend", BACKENDS)
def test_export_with_dynamic_shapes(backend):
    case = molecules([6, 1, 7], torch.float64)
    other = molecules([9, 3], torch.float64)
    model = Network(case)
    atoms, edges = torch.export.Dim("atoms"), torch.export.Dim("edges")
    shapes = ({0: atoms}, {0: edges}, None, {1: edges})
    with ops.backend(backend), torch.no_grad():
        arguments = tuple(t.detach() for t in inputs_of(case))
        program = torch.export.export(model, (*arguments, case.edge_index), dynamic_shapes=shapes)
        names = [str(node.target) for node in program.graph.nodes]
        assert any("pyg_schnet" in name for name in names) == (backend == "cpu")
        for c in (case, other):
            tensors = (*(t.detach() for t in inputs_of(c)), c.edge_index)
            assert_close(program.module()(*tensors), model(*tensors))


def test_range_is_checked_at_run_time():
    edge_index = torch.tensor([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="exceed the range"):
        library.edge_plan(edge_index, torch.tensor([2.0, 2.0]), 2, 2, 0.0, 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_float32(dtype):
    case = molecules([6, 7], torch.float32)
    x, _, table, _ = case.features(8)
    plan = case.plan()
    expected = cfconv(x.to(dtype).float(), case.distances, table, plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = cfconv(x.to(dtype), case.distances, table, plan)
        operator = library.Compiled.of(plan).reduce(
            x.to(dtype), plan.arrange(case.distances), table, None, 0, False
        )
    assert actual.dtype == operator.dtype == torch.float32
    assert_close(actual, expected)
    assert_close(operator, expected)


def test_function_transforms():
    case = molecules([4, 5], torch.float64)
    plan = case.plan()
    x, distances, table = inputs_of(case, width=3)

    def energy(d):
        return shifted_softplus(cfconv(x, d, table, plan)).sum()

    (expected,) = torch.autograd.grad(energy(distances), distances)
    assert_close(torch.func.grad(energy)(distances.detach()).detach(), expected)
    tangent = torch.randn_like(distances)
    _, actual = torch.func.jvp(energy, (distances.detach(),), (tangent,))
    assert_close(actual.detach(), (expected * tangent).sum(), factor=10)
    both = torch.func.vmap(energy)(torch.stack([distances.detach()] * 2))
    assert_close(both[1].detach(), energy(distances).detach())
