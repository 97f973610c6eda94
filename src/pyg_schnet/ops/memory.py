r"""Memory of the process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tells the C library of Linux to keep freed memory for the next allocation.

    By default it returns large blocks to the system, which hands them out again page by page, each
    filled with zeros: up to a fifth of a training step. Holds for the whole process, and makes it
    keep up to 512 MB more; :func:`pyg_schnet.training.fit` calls it.

    Returns:
        Whether that was possible.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20)) and bool(
        mallopt(_M_TRIM_THRESHOLD, 512 << 20)
    )
