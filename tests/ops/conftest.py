"""Graphs and tolerances shared by the tests of the operators."""

from dataclasses import dataclass, replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pyg_schnet.ops import EdgePlan, Knots, reference

# Largest deviation relative to the largest magnitude, between kernels and plain PyTorch.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


@dataclass
class Case:
    """A graph with what a convolution on it takes."""

    edge_index: Tensor
    num_nodes: tuple[int, int]
    distances: Tensor
    knots: Knots

    def plan(self) -> EdgePlan:
        return EdgePlan.build(self.edge_index, self.num_nodes, self.distances, self.knots)

    def to(self, device: str) -> "Case":
        return replace(
            self, edge_index=self.edge_index.to(device), distances=self.distances.to(device)
        )

    def features(self, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of sources and destinations, a table, edge weights."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.distances)

        num_src, num_dst = self.num_nodes
        return (
            normal(num_src, width),
            normal(num_dst, width),
            normal(self.knots.rows, width),
            normal(self.distances.numel()),
        )


def molecules(sizes: list[int], dtype: torch.dtype, cutoff: float = 3.0, seed: int = 0) -> Case:
    """Random molecules, all pairs within the cutoff: a symmetric graph."""
    generator = torch.Generator().manual_seed(seed)
    edges, lengths, first = [], [], 0
    for size in sizes:
        pos = 1.5 * torch.randn(size, 3, generator=generator, dtype=torch.float64)
        distance = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
        near = (distance < cutoff) & ~torch.eye(size, dtype=torch.bool)
        target, source = near.nonzero().t()
        edges.append(torch.stack([source, target]) + first)
        lengths.append(distance[target, source])
        first += size
    return Case(
        torch.cat(edges, dim=1),
        (first, first),
        torch.cat(lengths).to(dtype),
        Knots.spanning(0.5, cutoff),
    )


def directed(num_src: int, num_dst: int, num_edges: int, dtype: torch.dtype, seed: int = 0) -> Case:
    """Random edges from one set of atoms to another, some of them twice, unsorted."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(max(num_src, 1), (num_edges,), generator=generator)
    target = torch.randint(max(num_dst, 1), (num_edges,), generator=generator)
    # Up to beyond the cutoff, where the filter has ended.
    distances = 3.2 * torch.rand(num_edges, generator=generator, dtype=torch.float64)
    return Case(
        torch.stack([source, target]),
        (num_src, num_dst),
        distances.to(dtype),
        Knots.spanning(0.5, 3.0),
    )


CASES = {
    "molecules": lambda dtype: molecules([9, 18, 1, 5], dtype),
    "isolated_atoms": lambda dtype: molecules([1, 1, 7, 1, 6, 1, 1], dtype),
    "one_atom": lambda dtype: molecules([1], dtype),
    "no_edges": lambda dtype: molecules([1, 1, 1], dtype),
    "no_atoms": lambda dtype: directed(0, 0, 0, dtype),
    "large": lambda dtype: molecules([120], dtype, seed=1),
    "asymmetric": lambda dtype: directed(12, 12, 60, dtype),
    "bipartite": lambda dtype: directed(7, 20, 90, dtype),
    "bipartite_isolated": lambda dtype: directed(30, 3, 25, dtype),
}


@pytest.fixture(params=list(CASES))
def make_case(request):
    return CASES[request.param]


def clamp_to_intervals(case: Case) -> Case:
    """Moves distances off knots and ends, so that finite differences see smooth pieces."""
    h = case.knots.spacing
    k = (case.distances / h).floor()
    u = (case.distances / h - k).clamp(0.1, 0.9)
    case.distances = (k + u) * h
    return case


def assert_close(actual: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    """Compares with the tolerance of the dtype, relative to the largest element."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    bound = factor * TOLERANCE[expected.dtype] * max(scale, 1.0)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=bound)


def assert_primitives_match(kernels: ModuleType, case: Case, width: int, variants) -> None:
    """Compares with plain PyTorch, for pairs of an order and whether edges have weights."""
    plan = case.plan()
    x, g, table, weight = case.features(width)
    distances = plan.arrange(case.distances)
    arguments = (distances, table, plan)
    for order, weighted in variants:
        c = weight if weighted else None
        for transposed in (False, True):
            features = g if transposed else x
            assert_close(
                kernels.reduce(features, *arguments, order, c, transposed),
                reference.reduce(features, *arguments, order, c, transposed),
            )
        assert_close(
            kernels.collect(g, x, distances, table.size(0), plan, order, c),
            reference.collect(g, x, distances, table.size(0), plan, order, c),
        )
        assert_close(
            kernels.product(g, x, *arguments, order), reference.product(g, x, *arguments, order)
        )


def assert_fused_match(kernels: ModuleType, case: Case, width: int) -> None:
    """Compares what backward passes call with plain PyTorch."""
    plan = case.plan()
    x, g, table, s = case.features(width)
    y = case.features(width, seed=1)[0]
    distances = plan.arrange(case.distances)
    for name, arguments in (
        ("reduce_backward", (g, x, distances, table, plan)),
        ("reduce_double_backward", (g, x, y, s, distances, table, plan)),
    ):
        actual = getattr(kernels, name)(*arguments)
        for a, b in zip(actual, getattr(reference, name)(*arguments)):
            assert_close(a, b)
    dg, dx, dd = kernels.reduce_double_backward(g, x, y, s, distances, table, plan, False)
    expected = reference.reduce_double_backward(g, x, y, s, distances, table, plan, False)
    assert_close(dg, expected[0])
    assert_close(dx, expected[1])
    assert dd is None
    arguments = (g, x, y, s, distances, table.size(0), plan)
    assert_close(kernels.collect_backward(*arguments), reference.collect_backward(*arguments))
