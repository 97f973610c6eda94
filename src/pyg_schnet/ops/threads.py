r"""Runs kernels on the threads of PyTorch.

Numba's own thread pools do not fit beside PyTorch's. Its ``workqueue`` aborts when two Python
threads call at once, ``omp`` kills forked children, and either has threads that compete with
OpenMP threads of PyTorch, which still spin after its last operator. So kernels are handed to
the very OpenMP runtime that PyTorch has loaded: its threads are awake, and concurrent callers get
a team each, as they do from PyTorch.
"""

import ctypes
import os
import threading
from pathlib import Path

import torch

_state: dict[str, object] = {"forked": False}
_local = threading.local()


def _after_fork() -> None:
    # OpenMP threads do not survive a fork, and its runtime waits for them forever.
    _state["forked"] = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _find_parallel() -> object:
    """``GOMP_parallel`` of the OpenMP runtime PyTorch is linked to, if it has one."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


_parallel = _find_parallel()


def run(kernel, arguments: ctypes.Array, threads: int) -> None:
    """Calls ``kernel(arguments)`` on every thread of a team; they share out the tasks."""
    if threads > 1 and _parallel is not None and not _state["forked"]:
        _parallel(kernel.address, ctypes.addressof(arguments), threads, 0)
    else:
        kernel.ctypes(ctypes.addressof(arguments))
