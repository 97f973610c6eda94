r"""Runs kernels on the threads of PyTorch.

Numba's own thread pools do not fit beside PyTorch's: ``workqueue`` aborts when two Python threads
call at once, ``omp`` kills forked children, and the threads of either compete with the OpenMP
threads of PyTorch, which keep spinning after its operators. So kernels are handed to the very
OpenMP runtime that PyTorch has loaded: its threads are awake, and concurrent callers get a team
each. Where PyTorch has another runtime (macOS, Windows), Python threads do the work.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import torch
from numba.core.ccallback import CFunc

from . import dispatch


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


@cache
def _openmp() -> Callable[..., None] | None:
    """``GOMP_parallel`` of the OpenMP runtime that PyTorch is linked to, if it has one."""
    try:
        # Symbols are looked up in the library's dependencies too, whatever their names.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="pyg_schnet")
