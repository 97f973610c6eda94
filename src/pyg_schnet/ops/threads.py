r"""Runs kernels on the threads of PyTorch.

Numba's own thread pools do not fit beside PyTorch's: ``workqueue`` aborts when two Python threads
call at once, ``omp`` kills forked children, and the threads of either compete with the OpenMP
threads of PyTorch, which keep spinning after its operators. So kernels are handed to the very
OpenMP runtime that PyTorch has loaded: its threads are awake, and concurrent callers get a team
each. Where PyTorch has another runtime (macOS, Windows), Python threads do the work.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numba.core.ccallback import CFunc

from . import dispatch

# Below this many multiplications two threads take longer than one, as measured on AVX-512.
_SMALL_PRODUCT = 500_000


def run(kernel: CFunc, arguments: ctypes.Array, threads: int) -> None:
    """Calls ``kernel(arguments)`` on each thread of a team, which share out its tasks."""
    address = ctypes.addressof(arguments)
    if threads <= 1 or dispatch.forked:
        kernel.ctypes(address)
        return
    parallel = _openmp()
    if parallel is not None:
        parallel(kernel.address, address, threads, 0)
    else:
        helpers = [_pool(threads).submit(kernel.ctypes, address) for _ in range(threads - 1)]
        kernel.ctypes(address)
        wait(helpers)


@contextlib.contextmanager
def single_threaded_products(multiplications: int) -> Iterator[None]:
    """Has the calling thread alone do matrix products that are too small to share.

    MKL wakes its threads for products that one of them could do in half the time.

    Args:
        multiplications: Of one product; nothing happens if there are many.
    """
    limit = _mkl_threads_of_this_thread() if multiplications < _SMALL_PRODUCT else None
    if limit is None:
        yield
        return
    before = limit(1)
    try:
        yield
    finally:
        limit(before)


@cache
def _openmp() -> Callable[..., None] | None:
    """``GOMP_parallel`` of the OpenMP runtime that PyTorch is linked to, if it has one."""
    parallel = _symbol("GOMP_parallel")
    if parallel is not None:
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
    return parallel


@cache
def _mkl_threads_of_this_thread() -> Callable[[int], int] | None:
    """Sets how many threads products of the calling thread use, 0 for the default of all threads.

    Returns what was set before; ``None`` where PyTorch has no MKL inside.
    """
    return _symbol("MKL_Set_Num_Threads_Local")


def _symbol(name: str) -> Any:
    try:
        # Symbols are looked up in the library's dependencies too, whatever their names.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return getattr(library, name)
    except (OSError, AttributeError):
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="pyg_schnet")
