"""Compiles kernels when they are first needed, lays out their arguments and runs them."""

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache, lru_cache

import torch
from llvmlite import binding
from numba import cfunc, types
from numba.core.ccallback import CFunc
from torch import Tensor

from . import cpu_kernels as kernels
from . import threads
from .compilation import kept, source_digest
from .simd import Panel
from .table import Knots, spline_basis

# Below this number of edges times features one thread is done before a second has joined.
_SERIAL = 200_000
_HEAD = struct.Struct("6q3d18q")
_compile_lock = threading.Lock()
_local = threading.local()


def _register_bytes() -> int:
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


_digest = source_digest()


@cache
def panel_for(dtype: torch.dtype, width: int) -> Panel:
    """Four registers of features, or one where they are few."""
    scalar, size = (types.float32, 4) if dtype == torch.float32 else (types.float64, 8)
    lanes = _register_bytes() // size
    while lanes < width and lanes < 4 * _register_bytes() // size:
        lanes *= 2
    return Panel(scalar, lanes, width % lanes != 0, _digest)


def panel_of_registers(number: int, masked: bool) -> Panel:
    """So many registers of float32 features."""
    return Panel(types.float32, number * _register_bytes() // 4, masked, _digest)


@cache
def compile_kernel(function: Callable, panel: Panel) -> CFunc:
    """Machine code of a kernel for panels of one kind, from disk or compiled now."""
    with _compile_lock:
        signature = types.void(types.CPointer(panel))
        return kept(lambda cache: cfunc(signature, cache=cache)(function))


@lru_cache(maxsize=256)
def _taps(order: int, spacing: float, dtype: torch.dtype) -> bytes:
    """Coefficients of 1, u, u^2, u^3 of the four taps, as bytes."""
    points = torch.arange(4, dtype=torch.float64) / 3
    powers = points.unsqueeze(1) ** torch.arange(4, dtype=torch.float64)
    coefficients = torch.linalg.solve(powers, spline_basis(points, spacing, order))
    return coefficients.to(dtype).numpy().tobytes()


class Call:
    r"""One call of a kernel.

    Args:
        width: Number F of features.
        knots: Radial knots.
        dtype: Dtype of all floating-point arrays.
        size: Edges times features, which decides whether threads pay.
    """

    def __init__(self, width: int, knots: Knots, dtype: torch.dtype, size: int):
        self.panel = panel_for(dtype, width)
        self.knots, self.dtype, self.width = knots, dtype, width
        self.threads = torch.get_num_threads() if size >= _SERIAL else 1
        if not hasattr(_local, "arguments"):
            _local.arguments = (ctypes.c_int64 * kernels.SIZE)()
        self.arguments = _local.arguments

    def run(
        self,
        function: Callable,
        tasks: int,
        orders: tuple[int, ...] = (),
        count: int = 0,
        **arrays: Tensor | None,
    ) -> bool:
        """Runs ``function``; false if it found edges not sorted by knot."""
        knots, arguments = self.knots, self.arguments
        addresses = [0] * 18
        for name, array in arrays.items():
            if array is not None:
                addresses[_PLACE[name]] = array.data_ptr()
        _HEAD.pack_into(
            arguments,
            0,
            *(0, tasks, count, self.width, knots.intervals, 1),
            *(knots.start, 1.0 / knots.spacing, knots.limit),
            *addresses,
        )
        view = memoryview(arguments).cast("B")
        for order, place in zip(orders, (kernels.TAPS, kernels.TAPS_1, kernels.TAPS_2)):
            data = _taps(order, knots.spacing, self.dtype)
            view[8 * place : 8 * place + len(data)] = data
        threads.run(compile_kernel(function, self.panel), arguments, self.threads)
        return bool(arguments[kernels.SORTED])


_PLACE = {
    name: getattr(kernels, name.upper()) - kernels.ROWPTR
    for name in (
        "rowptr source target blocks edges reverse distances table weight g x y s "
        "out_g out_x out_d scratch ranges"
    ).split()
}


def scratch(name: str, numel: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory that the same thread uses again in its next call."""
    key = f"{name}_{dtype}"
    buffer = getattr(_local, key, None)
    if buffer is None or buffer.numel() < numel:
        buffer = torch.empty(numel, dtype=dtype, device="cpu")
        setattr(_local, key, buffer)
    return buffer
