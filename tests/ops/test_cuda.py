"""The Triton kernels: compiled on a GPU where there is one, else by Triton's interpreter.

The interpreter takes milliseconds for what a GPU does in nanoseconds, so its cases are tiny; the
same assertions run on those of the CPU kernels on a GPU: ``pytest tests/ops/test_cuda.py -m gpu``.
"""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from molecules import small_model
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from pyg_schnet import ops
from pyg_schnet.ops import EdgePlan, Knots, cfconv, dispatch, knot_chunks, reference
from pyg_schnet.ops.dispatch import has_kernels, kernels_for, selected_backend
from pyg_schnet.ops.knot_chunks import KnotChunks

from .conftest import (
    Case,
    assert_close,
    assert_fused_match,
    assert_primitives_match,
    clamp_to_intervals,
    directed,
    molecules,
)

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
triton = pytest.importorskip("triton", reason="needs Triton: pip install triton")
VERSION = tuple(map(int, triton.__version__.split(".")[:2]))

runs = [
    pytest.mark.skipif(
        not GPU and os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs a GPU, or TRITON_INTERPRET=1",
    ),
    pytest.mark.skipif(
        not GPU and VERSION < (3, 7),
        reason="the interpreter of Triton 3.6 makes scalars of arrays, which NumPy deprecates",
    ),
    *([pytest.mark.gpu] if GPU else []),
]


@pytest.fixture(params=[pytest.param("triton", marks=runs)])
def backend(request):
    """Triton, the only one here; skipped where it cannot run."""
    with ops.backend(request.param):
        yield request.param


@pytest.fixture
def kernels(backend):
    from pyg_schnet.ops import cuda

    return cuda


def coarse(case: Case, intervals: int = 4) -> Case:
    """Few intervals: in the interpreter each row of the table takes a while."""
    return replace(case, knots=Knots.spanning(30.0 / intervals, 3.0)).to(DEVICE)


TINY = {
    "molecules": lambda dtype: coarse(molecules([3, 1, 2], dtype)),
    "asymmetric": lambda dtype: coarse(directed(4, 4, 10, dtype)),
    "bipartite": lambda dtype: coarse(directed(3, 5, 11, dtype)),
    "no_edges": lambda dtype: coarse(molecules([1, 1], dtype)),
    "no_atoms": lambda dtype: coarse(directed(0, 0, 0, dtype)),
}


@pytest.mark.parametrize(
    ("name", "dtype", "width", "variants"),
    [
        ("molecules", torch.float64, 3, [(0, False), (1, True)]),
        ("bipartite", torch.float64, 3, [(2, False), (3, True)]),
        ("asymmetric", torch.float32, 130, [(0, True)]),
        ("no_edges", torch.float32, 3, [(0, True)]),
        ("no_atoms", torch.float32, 3, [(0, False)]),
        ("bipartite", torch.float32, 1, [(4, True)]),
    ],
)
def test_primitives_match_reference(kernels, name, dtype, width, variants):
    assert_primitives_match(kernels, TINY[name](dtype), width, variants)


@pytest.mark.parametrize(
    ("name", "dtype", "width"),
    [
        ("molecules", torch.float32, 3),
        ("molecules", torch.float64, 130),
        ("asymmetric", torch.float64, 1),
        ("no_edges", torch.float64, 3),
    ],
)
def test_fused_sweeps_match_reference(kernels, name, dtype, width):
    assert_fused_match(kernels, TINY[name](dtype), width)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: too slow in the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_of_it_on_a_gpu(kernels, make_case, dtype):
    case = make_case(dtype).to(DEVICE)
    for width in (1, 3, 64, 100, 128, 300):
        variants = itertools.product(range(4), (False, True))
        assert_primitives_match(kernels, case, width, variants)
        assert_fused_match(kernels, case, width)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_captured_and_repeated_on_a_gpu(kernels):
    """No primitive waits for the device, a CUDA graph can hold all, and no bit ever changes."""
    case = molecules([18] * 20 + [1], torch.float32).to(DEVICE)
    plan = case.plan()
    x, g, table, s = case.features(128)
    d = plan.arrange(case.distances)

    def everything():
        plan._chunks = None  # sorting is part of it
        dx, dd = kernels.reduce_backward(g, x, d, table, plan)
        return [
            *(kernels.reduce(x, d, table, plan, 1, s), kernels.product(g, x, d, table, plan, 1)),
            *(kernels.collect(g, x, d, table.size(0), plan, 1, s), dx, dd),
            *kernels.reduce_double_backward(g, x, dx, dd, d, table, plan),
            kernels.collect_backward(g, x, dx, dd, d, table.size(0), plan),
        ]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = everything()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = everything()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    graph.replay()
    torch.cuda.synchronize()
    for a, b, c in zip(expected, again, captured):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_sorting_never_asks_for_values():
    """As a tensor without values shows: the host need not wait for the device."""
    with FakeTensorMode():
        chunks = KnotChunks.of(torch.empty(1000), Knots.spanning(0.5, 3.0))
    assert chunks.order.shape == (1000,)
    assert chunks.interval.shape == (1000 // 64 + 61,)


def test_formula_by_hand(backend):
    # One edge 1 -> 0 in the middle of an interval, where the splines are 1/48, 23/48, 23/48, 1/48.
    knots = Knots.spanning(5.0, 2.0)
    distances = torch.tensor([0.75], device=DEVICE)
    plan = EdgePlan.build(torch.tensor([[1], [0]], device=DEVICE), 2, distances, knots)
    table = torch.arange(knots.rows, dtype=torch.float32, device=DEVICE).view(-1, 1) ** 2
    x = torch.tensor([[10.0], [2.0]], device=DEVICE)
    out = cfconv(x, distances, table, plan, torch.tensor([0.5], device=DEVICE))
    W = (1 * 1 + 23 * 4 + 23 * 9 + 1 * 16) / 48
    torch.testing.assert_close(out.cpu(), torch.tensor([[2.0 * W * 0.5], [0.0]]))


@pytest.mark.parametrize(
    "name", ["molecules", pytest.param("bipartite", marks=[] if GPU else [pytest.mark.slow])]
)
def test_gradients(backend, name):
    """To second order; along random directions, unless there is a GPU."""
    graph = {
        "molecules": molecules([2], torch.float64),
        "bipartite": directed(2, 3, 5, torch.float64),
    }
    case = clamp_to_intervals(coarse(graph[name], 2))
    plan = case.plan()
    x, _, table, weight = (t.requires_grad_() for t in case.features(2))
    edges = pairs = torch.arange(plan.num_edges, device=DEVICE)
    if plan.symmetric:
        # Perturbing one direction only would break the symmetry the plan has found.
        edges, pairs = plan.undirected()
    lengths = case.distances[edges].clone().requires_grad_()

    def function(x, lengths, table, *weight):
        return cfconv(x, lengths[pairs], table, plan, *weight)

    # Without weights backward passes are fused.
    inputs = (x, lengths, table) if plan.symmetric else (x, lengths, table, weight)
    assert gradcheck(function, inputs, fast_mode=not GPU)
    assert gradgradcheck(function, inputs, fast_mode=not GPU)


def test_network_trains_on_forces_alike(backend):
    """Energies, forces, and gradients of a loss of both by all weights."""
    z = torch.tensor([8, 1, 1, 6], device=DEVICE)
    pos = torch.tensor(
        [[0.0, 0.0, 0.1], [0.0, 0.76, -0.5], [0.0, -0.76, -0.5], [1.3, 0.2, 0.0]],
        dtype=torch.float64,
        device=DEVICE,
    )
    results = []
    for name in (backend, "reference"):
        with ops.backend(name):
            model = small_model(mode="table").double().to(DEVICE)
            at = pos.clone().requires_grad_()
            energy = model(z, at).sum()
            (slope,) = torch.autograd.grad(energy, at, create_graph=True)
            (energy + slope.square().sum()).backward()
            results.append([energy, slope, *(p.grad for p in model.parameters())])
    assert not torch.equal(results[0][1], torch.zeros_like(pos))
    for a, b in zip(*results):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a.detach(), b.detach(), factor=100)


def test_compiled_graphs_call_the_kernels(kernels, monkeypatch):
    case = TINY["molecules"](torch.float64)
    x, _, table, _ = case.features(2)
    tensors = tuple(t.requires_grad_() for t in (x, case.distances.clone(), table))

    def energy(x, distances, table):
        plan = EdgePlan.build(case.edge_index, x.size(0), distances, case.knots)
        return cfconv(x, distances, table, plan).square().sum()

    with ops.backend("reference"):
        expected = torch.autograd.grad(energy(*tensors), tensors)
    torch._dynamo.reset()
    compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
    called = []
    launch = kernels._launch
    monkeypatch.setattr(
        kernels, "_launch", lambda kernel, *a, **k: (called.append(kernel), launch(kernel, *a, **k))
    )
    actual = torch.autograd.grad(compiled(*tensors), tensors)
    assert len(called) == 5  # reduce, its transpose, product, collect and merge
    for a, b in zip(actual, expected):
        assert_close(a, b, factor=20)


@pytest.mark.parametrize("backward", [False, True])
def test_other_distances_than_those_the_plan_has_sorted(kernels, backward):
    case = TINY["molecules"](torch.float64)
    plan = case.plan()
    x, g, table, s = case.features(2)
    distances = plan.arrange(case.distances)
    plan.chunks_by_knot(distances)
    for d in (3.0 - distances, 2.9 + 0.2 * distances):
        if backward:
            arguments = (g, x, 2 * x, s, d, table.size(0), plan)
            name = "collect_backward"
        else:
            arguments, name = (g, x, d, table.size(0), plan), "collect"
        assert_close(getattr(kernels, name)(*arguments), getattr(reference, name)(*arguments))


def test_long_intervals_are_summed_in_chunks(kernels, monkeypatch):
    monkeypatch.setattr(knot_chunks, "CHUNK", 2)
    case = coarse(directed(3, 5, 40, torch.float64))
    plan = case.plan()
    x, g, table, _ = case.features(65)  # three chunks and more, two edges at a time
    arguments = (g, x, plan.arrange(case.distances), table.size(0), plan)
    assert_close(kernels.collect(*arguments), reference.collect(*arguments))


@pytest.mark.parametrize("chunk", [1, 3, 64, 1000])
def test_chunks_hold_every_edge_once(monkeypatch, chunk):
    monkeypatch.setattr(knot_chunks, "CHUNK", chunk)
    knots = Knots.spanning(2.0, 3.0)
    distances = torch.cat([3.3 * torch.rand(500), torch.tensor([torch.nan, 0.0, 3.0, 1.0, 1.0])])
    chunks = KnotChunks.of(distances, knots)
    assert chunks.interval.numel() == 505 // chunk + knots.intervals + 1
    pieces = [chunks.order[b:e] for b, e in zip(chunks.begin.tolist(), chunks.end.tolist())]
    assert max(len(piece) for piece in pieces) <= chunk
    assert torch.cat(pieces).sort().values.tolist() == list(range(505))
    assert torch.equal(chunks.order, torch.cat(pieces))
    for k, piece in zip(chunks.interval.tolist(), pieces):
        d = distances[piece.long()]
        if k < knots.intervals:
            interval = (d.nan_to_num() / knots.spacing).long()
            assert (interval == k).all()
        else:
            assert (d >= 3.0).all()
    first = chunks.first.tolist()
    for k in range(knots.intervals + 1):
        assert set(chunks.interval[first[k] : first[k + 1]].tolist()) <= {k}


def test_distance_that_is_not_a_number_shows(kernels):
    case = TINY["bipartite"](torch.float32)
    x, g, table, _ = case.features(2)
    plan = case.plan()
    distances = plan.arrange(case.distances).clone()
    distances[2] = float("nan")
    for name, arguments in (
        ("reduce", (x, distances, table, plan)),
        ("product", (g, x, distances, table, plan)),
        ("collect", (g, x, distances, table.size(0), plan)),
    ):
        actual, expected = (getattr(k, name)(*arguments) for k in (kernels, reference))
        assert expected.isnan().any()
        torch.testing.assert_close(actual, expected, equal_nan=True)


def test_non_contiguous_inputs(backend):
    case = TINY["bipartite"](torch.float32)
    plan = case.plan()
    x, _, table, weight = case.features(3)
    expected = cfconv(x, case.distances, table, plan, weight)

    def strided(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    actual = cfconv(
        x.t().contiguous().t(), strided(case.distances), strided(table), plan, strided(weight)
    )
    assert torch.equal(actual, expected)


def test_kernels_check_what_they_read(kernels):
    case = TINY["molecules"](torch.float32)
    plan, d = case.plan(), case.distances
    x, g, table, _ = case.features(8)
    for message, function, arguments in (
        ("features", kernels.reduce, (x[1:], d, table, plan)),
        ("features", kernels.product, (g.double(), x, d, table, plan)),
        ("per edge", kernels.reduce, (x, d[1:], table, plan)),
        ("rows", kernels.reduce, (x, d, table[1:], plan)),
        ("rows", kernels.collect, (g, x, d, table.size(0) - 1, plan)),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_selection(kernels):
    x = torch.zeros(2, 2, device=DEVICE)
    assert selected_backend(x) == "triton"
    assert has_kernels(x)
    assert kernels_for(x) is kernels
    with pytest.raises(ValueError, match=r"float32 and float64 tensors on a GPU \(got .*float16"):
        kernels_for(x.half())
    with ops.backend(None):
        assert selected_backend(torch.zeros(2, device="cpu")) == "cpu"
        assert selected_backend(torch.zeros(2, device="meta")) == "reference"


def test_cpu_tensors_need_the_interpreter(kernels, monkeypatch):
    monkeypatch.setattr(dispatch, "_interpreted", False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        kernels_for(torch.zeros(2, device="cpu"))


def test_without_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", False)
    with pytest.raises(ImportError, match="pip install triton"):
        ops.backend("triton")


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_compiles_for_a_gpu(options):
    """All kernels become machine code, which the interpreter does not show."""
    if options and "PYG_SCHNET_ALL_KERNELS" not in os.environ:
        pytest.skip("takes minutes: PYG_SCHNET_ALL_KERNELS is not set")
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, str(script), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    names = {"reduce", "product", "reduce_backward", "reduce_double_backward", "collect", "merge"}
    assert {(k["name"], k["dtype"]) for k in kernels} == {
        (name, dtype) for name in names for dtype in ("*fp32", "*fp64")
    }
    for kernel in kernels:
        assert kernel["STACK"] == 0, f"registers are spilled: {kernel}"
        assert not kernel["mixed"], f"both precisions: {kernel}"
        assert not kernel["rounded"], f"constants of less precision: {kernel}"
        assert not kernel["atomics"], f"sums in any order: {kernel}"
        assert kernel["vector_loads"] > 0 or kernel["constants"]["WIDTH"] == 1, kernel
