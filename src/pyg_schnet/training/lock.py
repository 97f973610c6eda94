r"""The lock of a run: two processes that write into one directory would spoil both runs."""

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..storage import write_atomically
from .distributed import World

# The file that is locked, which stays, and who has locked it.
LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def locked(
    directory: Path | None, world: World | None = None, *, make: bool = True
) -> Iterator[None]:
    """Keeps a directory for a run; of several processes rank 0 does.

    The lock is one of the operating system, which ends with its process, however that ends. Where a
    file system has no such locks there is a warning, and no lock.

    Args:
        directory: Where the run is kept; nothing is locked if ``None``.
        world: Processes of the run; only this one if ``None``.
        make: Whether to make the directory. What is not there is not locked.

    Raises:
        BlockingIOError: If another process has it, in all ranks.
    """
    world = World() if world is None else world
    lock: BaseFileLock | None = None

    def acquire() -> None:
        nonlocal lock
        if directory is not None and (make or directory.is_dir()):
            lock = _acquire(directory)

    try:
        world.from_main(acquire)
        yield
    finally:
        if lock is not None and directory is not None:
            (directory / HOLDER).unlink(missing_ok=True)
            lock.release()


def _acquire(directory: Path) -> BaseFileLock | None:
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / LOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's own, of the soft lock below
            lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"'{directory}' is in use: {_holder(directory)} trains there. Wait for it or stop it, "
            "or name another directory"
        ) from None
    except (OSError, NotImplementedError) as error:
        _warn(directory, error)
        return None
    if isinstance(lock, SoftFileLock):  # filelock's way out, which a killed process would leave
        lock.release()
        _warn(directory, "the file system has no locks")
        return None
    about = {"pid": os.getpid(), "host": socket.gethostname()}
    write_atomically(directory / HOLDER, json.dumps(about).encode())
    return lock


def _holder(directory: Path) -> str:
    """Who has the lock, as far as is known."""
    try:
        about = json.loads((directory / HOLDER).read_bytes())
        return f"process {about['pid']} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it may just have begun, or end
        return "another process"


def _warn(directory: Path, why: object) -> None:
    warnings.warn(
        f"'{directory}' cannot be locked ({why}): see to it that no other process trains there",
        RuntimeWarning,
        stacklevel=2,
    )
