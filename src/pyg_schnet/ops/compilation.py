"""Says when kernels are being compiled, and from which sources."""

import hashlib
import logging
from pathlib import Path

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


def source_digest() -> str:
    """Hash of all kernels' sources: Numba's cache only watches the file of the kernel itself."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name.startswith("cpu_") or path.name == "simd.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
