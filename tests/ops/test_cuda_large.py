"""Features beyond what 32 bits can count: the Triton kernels find their way in 64."""

import pytest
import torch

from pyg_schnet.ops import EdgePlan, Knots, reference

from .test_cuda import DEVICE, GPU, backend, kernels  # noqa: F401 # fixtures

WIDTH = 128
# The last of these atoms is at number 2^31 of an array of features.
ATOMS = (1 << 31) // WIDTH + 64
KNOTS = Knots.spanning(0.75, 3.0)
DISTANCES = [0.5, 1.0, 1.5, 2.0]


def features(rows: list[int], atoms: int) -> torch.Tensor:
    """An array of which only some rows are ever touched: on a CPU no others take memory."""
    x = torch.empty(atoms, WIDTH, device=DEVICE)
    for row in rows:
        x[row] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(row % 97)).to(x)
    return x


def plan_of(sources: list[int], targets: list[int], atoms: int | tuple[int, int]):
    edges = torch.tensor([sources, targets], device=DEVICE)
    distances = torch.tensor(DISTANCES, device=DEVICE)
    plan = EdgePlan.build(edges, atoms, distances, KNOTS)
    return plan, plan.arrange(distances)


def test_gathers(kernels):  # noqa: F811
    """Sums, products and tables from the far end of an array, as from a short one."""
    far = [3, ATOMS - 5, ATOMS - 1]
    x = features(far, ATOMS)
    short = x[far]
    g = features([0, 1], 2)
    table = torch.randn(KNOTS.rows, WIDTH, device=DEVICE)
    found, expected = [], []
    for into, atoms, near, of, by in (
        (found, ATOMS, x, far, kernels),
        (expected, 3, short, [0, 1, 2], reference),
    ):
        plan, d = plan_of([of[1], of[2], of[0], of[2]], [0, 0, 1, 1], (atoms, 2))
        into.append(by.reduce(near, d, table, plan))
        into.append(by.product(g, near, d, table, plan, 1))
        into.append(by.collect(g, near, d, KNOTS.rows, plan))
        # And the other way round: from far away to the first two.
        back, d = plan_of([0, 0, 1, 1], [of[1], of[2], of[0], of[2]], (2, atoms))
        into.append(by.product(near, g, d, table, back))
        into.append(by.collect(near, g, d, KNOTS.rows, back))
    for one, two in zip(found, expected, strict=True):
        assert two.abs().max() > 0.1
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device; Triton's interpreter would take days")
def test_rows_that_are_written():
    from pyg_schnet.ops import cuda

    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 45 << 30:
        pytest.skip("needs a CUDA device with 45 GB free")
    far = [3, ATOMS - 5, ATOMS - 1]
    x = torch.zeros(ATOMS, WIDTH, device=DEVICE)
    x[far] = torch.randn(3, WIDTH, device=DEVICE)
    g = x.flip(1)
    table = torch.randn(KNOTS.rows, WIDTH, device=DEVICE)
    results = []
    for by, atoms, of in ((cuda, ATOMS, far), (reference, 3, [0, 1, 2])):
        ends = [of[0], of[1], of[1], of[2]], [of[1], of[0], of[2], of[1]]
        edges = torch.tensor(ends, device=DEVICE)
        distances = torch.tensor([1.0, 1.0, 2.0, 2.0], device=DEVICE)
        plan = EdgePlan.build(edges, atoms, distances, KNOTS)
        assert plan.symmetric
        d = plan.arrange(distances)
        one, two = (x, g) if by is cuda else (x[far], g[far])
        results.append(by.reduce(one, d, table, plan)[of])
        by_x, by_d = by.reduce_backward(two, one, d, table, plan)
        results += [by_x[of], by_d]
    for one, two in zip(results[:3], results[3:], strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)
