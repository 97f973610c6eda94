"""Work is counted as by hand, once, and rates are what was done in the time it took."""

import pytest
import torch

from pyg_schnet import SchNet, ops
from pyg_schnet.ops import EdgePlan, Knots, kernels_for, reference


@pytest.fixture
def roofline(load):
    return load("roofline")


# Two atoms, an edge each way, 4 features in float32, 5 intervals and so 8 rows of the table.
FEATURES, EDGES = 2 * 4 * 4, 2 * 4
TABLE, INDEX = 8 * 4 * 4, 4
ROWPTR = 3 * INDEX


@pytest.fixture
def pair():
    distances = torch.tensor([0.9, 0.9])
    knots = Knots.spanning(5.0, 2.5)
    plan = EdgePlan.build(torch.tensor([[1, 0], [0, 1]]), 2, distances).with_knots(knots, distances)
    table = torch.randn(knots.rows, 4)
    assert table.shape == (8, 4)
    return plan, distances, table, torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)


@pytest.mark.parametrize(
    ("name", "multiply_adds", "rows", "moved"),
    [
        # x, the result, the table; distances; sources and where edges begin.
        ("reduce", 5, 5, 2 * FEATURES + TABLE + EDGES + 2 * INDEX + ROWPTR),
        # g, x, the table; distances and the result; sources and targets.
        ("product", 6, 6, 2 * FEATURES + TABLE + 2 * EDGES + 4 * INDEX),
        ("reduce_backward", 11, 6, 3 * FEATURES + TABLE + 2 * EDGES + 2 * INDEX + ROWPTR),
        # g, x, y and two results; s too; the reverse edges too.
        ("reduce_double_backward", 20, 7, 5 * FEATURES + TABLE + 3 * EDGES + 4 * INDEX + ROWPTR),
        # g, x, and the result, as large as the table; sources, targets and order.
        ("collect", 5, 2, 2 * FEATURES + TABLE + EDGES + 6 * INDEX),
        ("collect_backward", 11, 3, 3 * FEATURES + TABLE + 2 * EDGES + 6 * INDEX),
    ],
)
def test_by_hand(roofline, pair, name, multiply_adds, rows, moved):
    plan, d, table, g, x, y = pair
    s = torch.randn(2)
    args = {
        "reduce": (x, d, table, plan),
        "product": (g, x, d, table, plan),
        "reduce_backward": (g, x, d, table, plan),
        "reduce_double_backward": (g, x, y, s, d, table, plan),
        "collect": (g, x, d, 8, plan),
        "collect_backward": (g, x, y, s, d, 8, plan),
    }[name]
    work = roofline.work_of(name, args, {}, getattr(reference, name)(*args))
    assert work.flops == 2 * multiply_adds * 2 * 4
    assert work.bytes == moved
    assert work.loads == rows * 2 * 4 * 4


def test_products_and_views(roofline):
    x, weight = torch.randn(3, 5), torch.randn(7, 5)
    with roofline.Counted() as counted:
        torch.nn.functional.linear(x, weight).view(-1)[2:]
    assert counted.work == roofline.Work(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_primitives_count_once(roofline, pair, backend):
    """Not what plain PyTorch does inside, and none that calls another."""
    plan, d, table, g, x, _ = pair
    lone = EdgePlan.build(torch.tensor([[1], [0]]), 2, d[:1]).with_knots(plan.knots, d[:1])
    with ops.backend(backend):
        kernels = kernels_for(x)
        work = roofline.count(lambda: kernels.reduce_backward(g, x, d, table, plan), kernels)
        assert work["others"]["bytes"] == 0
        assert work["all"] == work["convolutions"]
        assert work["all"]["flops"] == 2 * 11 * 2 * 4
        # An edge without its reverse takes two other primitives.
        work = roofline.count(lambda: kernels.reduce_backward(g, x, d[:1], table, lone), kernels)
        assert work["all"]["flops"] == 2 * 11 * 4
    with ops.backend(backend):  # it is as it was
        assert kernels.reduce_backward.__module__.startswith("pyg_schnet")


def test_a_training_step(roofline):
    """Convolutions of both blocks, there and back; dense layers in between."""
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, num_gaussians=10, cutoff=5.0, mode="table")
    z, pos = torch.tensor([8, 1, 1]), torch.randn(3, 3)
    kernels = kernels_for(pos)
    work = roofline.count(lambda: model(z, pos).backward(), kernels)
    # Forward 5 in each block; back by features 5 more in one, by the table 5 in both.
    assert work["convolutions"]["flops"] >= 2 * (5 + 5) * 2 * 6 * 16
    assert work["others"]["flops"] > 2 * 3 * 3 * 16 * 16 * 2 * 3


def test_rates(roofline):
    """A copy counts twice: read and written."""
    rates = roofline.measure_rates(lambda run: [run() is None, 2.0, 2.0], "cpu", 2**-10, 8)
    assert rates.copy == pytest.approx(2 * 2**20 / 2e-3)
    assert rates.product == pytest.approx(2 * 8**3 / 2e-3)
    assert rates.floor(roofline.Work(1.0, 3 * rates.copy)) == pytest.approx(3.0)
    assert rates.floor(roofline.Work(4 * rates.product, 1.0)) == pytest.approx(4.0)
