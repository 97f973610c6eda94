r"""The process group of PyTorch that ``torchrun`` wants, made and left."""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist

# Dead processes are noticed at once, by their closed connections; this is for those that hang.
_TIMEOUT = timedelta(minutes=10)


def in_group() -> bool:
    """Whether this process is in a process group."""
    return dist.is_available() and dist.is_initialized()


def join(number: int, threads: int | None) -> bool:
    """Makes the process group that ``torchrun`` wants, unless there is one.

    Args:
        number: How many this makes: the store of torchrun outlives a group, and the next one must
            not find its addresses.
        threads: Threads of each process; the cores are shared out if ``None``.

    Returns:
        Whether one was made.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available() or in_group():
        return False
    backend, fellows = "gloo", int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > 0:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        if fellows <= gpus and dist.is_nccl_available():  # NCCL wants a GPU for each process
            backend = "cpu:gloo,cuda:nccl"
    share_cores(threads, fellows)
    store, rank, size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    store = dist.PrefixStore(str(number), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    return True


def leave() -> None:
    """Destroys the process group, if there is one."""
    if in_group():
        # Destroying waits for the threads of gloo without releasing the interpreter, which they
        # need to let go of the last message: let them do so first.
        time.sleep(0.1)
        dist.destroy_process_group()


def share_cores(threads: int | None, fellows: int) -> None:
    """Sets the threads of this process.

    Args:
        threads: As many; if ``None`` the cores are shared out, unless the user has set
            ``OMP_NUM_THREADS``: to other than 1, which ``torchrun`` sets where users set nothing.
        fellows: Processes on this machine.
    """
    if threads is None:
        if os.environ.get("OMP_NUM_THREADS", "1") != "1":
            return
        # The cores that this process may use, where the system tells.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
        threads = max(cores // fellows, 1)
    torch.set_num_threads(threads)
