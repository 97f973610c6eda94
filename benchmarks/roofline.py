r"""How much work a call is at least, counted, and how fast a device could do it, measured.

A device moves so many bytes per second and does so many operations per second in float32. The
longer of the two times that the work takes at these rates is its floor: the roofline.

Bytes are those of each tensor that an operation reads or writes, once, as if caches had no limit;
operations are those of matrix products and of the convolutions, a multiply-add being two, without
the splines (30 per edge), activations and sums. The rates are those of a copy, and of a matrix
product that does not round to TF32. Small batches stay in the L2 cache, which is faster than the
copy: their floor is lower still.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Work:
    """What a call has to do.

    Attributes:
        flops: Operations.
        bytes: Bytes to move at least, each tensor once.
        loads: Bytes that the programs of a convolution load, mostly from caches: rows of features
            and of the table for each edge.
    """

    flops: float = 0.0
    bytes: float = 0.0
    loads: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.loads + other.loads)


@dataclass(frozen=True)
class Rates:
    """What a device can do.

    Attributes:
        copy: Bytes per second of a copy, read and written.
        product: Operations per second of a matrix product in float32.
    """

    copy: float
    product: float

    def floor(self, work: Work) -> float:
        """Seconds that work takes at least."""
        return max(work.bytes / self.copy, work.flops / self.product)


def measure_rates(
    time: Callable[[Callable[[], object]], list[float]], device: str, gib: float, size: int
) -> Rates:
    """Copies ``gib``, and multiplies matrices of ``size`` rows and columns.

    Args:
        time: Gives times in milliseconds of a function.
        device: Where.
        gib: Size of the tensor that is copied.
        size: Rows and columns.
    """
    numbers = torch.ones(2, int(gib * 2**28), device=device)
    copy = statistics.median(time(lambda: numbers[0].copy_(numbers[1])))
    a, b = torch.randn(2, size, size, device=device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32
    try:
        product = statistics.median(time(lambda: a @ b))
    finally:
        torch.set_float32_matmul_precision(precision)
    moved = numbers.numel() * numbers.element_size()
    return Rates(moved / (1e-3 * copy), 2.0 * size**3 / (1e-3 * product))


# Of a convolution: multiply-adds per edge and feature, rows of features and of the table that each
# edge needs, as in pyg_schnet/ops/cuda_kernels.py.
@dataclass(frozen=True)
class _Kernel:
    multiply_adds: int
    rows: int


_KERNELS = {
    "reduce": _Kernel(5, 5),
    "product": _Kernel(6, 6),
    "reduce_backward": _Kernel(11, 6),
    "reduce_double_backward": _Kernel(20, 7),
    "collect": _Kernel(5, 2),
    "collect_backward": _Kernel(11, 3),
}
KERNELS = tuple(_KERNELS)
# Without the gradient by distances: neither second derivatives nor their sums.
_WITHOUT_DISTANCES = _Kernel(13, 7)


def work_of(name: str, args: tuple, kwargs: dict, out: Any) -> Work:
    """The work of a primitive of :mod:`pyg_schnet.ops`.

    Args:
        name: One of ``KERNELS``.
        args: Its arguments.
        kwargs: Those by name.
        out: What it returned.
    """
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    plan = next(arg for arg in (*args, *kwargs.values()) if hasattr(arg, "num_edges"))
    kernel = _KERNELS[name]
    if name == "reduce_double_backward" and len(outs) == 2:
        kernel = _WITHOUT_DISTANCES
    features = next(t for t in tensors if t.dim() == 2)
    per_row = plan.num_edges * features.size(1)
    moved = sum(t.numel() * t.element_size() for t in [*tensors, *outs])
    # Indices in four bytes: sources, and where the edges of each atom begin, or their targets and
    # order; the reverse of each edge where its own value is not enough.
    indices = plan.num_edges + plan.num_dst + 1
    if name == "product":
        indices = 2 * plan.num_edges
    elif name.startswith("collect"):
        indices = 3 * plan.num_edges
    elif name == "reduce_double_backward":
        indices += plan.num_edges
    return Work(
        2.0 * kernel.multiply_adds * per_row,
        float(moved + 4 * indices),
        float(kernel.rows * per_row * features.element_size()),
    )


class Counted(TorchDispatchMode):
    """Adds up the work of PyTorch's operators within this context, in ``work``."""

    # These only make room, or look at what is there in another way.
    _FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach")

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(
        self, function: Any, kinds: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs and counts an operator."""
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        count = flop_registry.get(function.overloadpacket)
        flops = 0.0 if count is None else float(count(*args, **kwargs, out_val=out))
        moved = 0.0
        name = function.name().removeprefix("aten::").split(".")[0]
        if not function.is_view and name not in self._FREE:
            tensors = tree_leaves((args, kwargs, out))
            moved = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
        self.work += Work(flops, float(moved))
        return out


@contextmanager
def counted_kernels(
    kernels: ModuleType, calls: list, others: Counted | None = None
) -> Iterator[None]:
    """Within this context calls of primitives go to a list: name, arguments by place and by name.

    Args:
        kernels: Module of the primitives.
        calls: The list, whose entries end with the work.
        others: Counts operators meanwhile, and not those within the primitives.
    """
    inside = False

    def counted(name: str, function: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # some primitives call others
                return function(*args, **kwargs)
            before, inside = None if others is None else others.work, True
            try:
                out = function(*args, **kwargs)
            finally:
                inside = False
            if others is not None and before is not None:
                others.work = before
            calls.append((name, args, kwargs, work_of(name, args, kwargs, out)))
            return out

        return run

    with ExitStack() as stack:
        for name in KERNELS:
            changed = counted(name, getattr(kernels, name))
            stack.enter_context(patch.object(kernels, name, changed))
        yield


def count(run: Callable[[], object], kernels: ModuleType) -> dict[str, dict[str, float]]:
    """The work of a call, in ``"convolutions"``, ``"others"`` and ``"all"``.

    Args:
        run: The call.
        kernels: Module of the primitives that it uses.
    """
    calls: list = []
    with Counted() as others, counted_kernels(kernels, calls, others):
        run()
    convolutions = sum((work for *_, work in calls), Work())
    parts = {"convolutions": convolutions, "others": others.work}
    parts["all"] = convolutions + others.work
    return {name: asdict(work) for name, work in parts.items()}
