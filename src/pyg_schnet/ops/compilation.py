"""Compiles kernels, keeps them on disk, and says when they are being compiled."""

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event

logger = logging.getLogger(__name__)


class _Announce(event.Listener):
    """Logs one line at the first compilation, which the cache on disk makes rare."""

    def __init__(self) -> None:
        self.announced = False

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if not self.announced and function.__module__.startswith("pyg_schnet."):
            self.announced = True
            logger.warning("compiling CPU kernels for this machine, once: this takes seconds")

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announce())


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """Decorates a loop over arrays: compiled when first called, for good where that is possible.

    Args:
        function: The function.
        **options: Options of :func:`numba.njit`.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    return kept(lambda cache: njit(cache=cache, nogil=True, **options)(function))


def kept(compile: Callable[[bool], Any]) -> Any:
    """Calls ``compile(True)``, to keep the code on disk; where it cannot, ``compile(False)``."""
    try:
        return compile(True)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _warn_once()
        return compile(False)


@cache
def _warn_once() -> None:
    logger.warning(
        "compiled CPU kernels cannot be kept, so that each process compiles its own: set "
        "NUMBA_CACHE_DIR to a folder that can be written to"
    )


def source_digest() -> str:
    """Hash of all kernels' sources: Numba's cache only watches the file of the kernel itself."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name.startswith("cpu_") or path.name == "simd.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
