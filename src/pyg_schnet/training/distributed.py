r"""Several processes that train one model: who they are, and what they tell each other.

``torchrun --nproc-per-node N`` starts N processes, here called ranks. Each holds the whole model
and takes its share of every batch; ``DistributedDataParallel`` sums up the gradients. Everything
that decides how a run goes on (losses, clocks, signals, errors) is agreed upon, so that all ranks
do the same at the same step. With one process nothing here communicates.
"""

import contextlib
import inspect
import os
import pickle
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .process_group import in_group, join, leave

T = TypeVar("T")

# How long to ask the others why a connection broke: less than torchrun gives them before it kills.
_PATIENCE = 5.0
_BROKEN = re.compile("gloo|nccl|process group|connection (closed|reset|refused)|broken pipe", re.I)


class LostProcessError(RuntimeError):
    """Another process of the run has failed, was killed, or hangs."""


class World:
    """The processes of a run, and the place of this one among them.

    :meth:`current` gives the world of this process. Methods that tell others something must be
    called by all ranks, in the same order.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.

    Raises:
        LostProcessError: By every method that waits for other processes, when one of these ended.
    """

    _active: ClassVar["World | None"] = None
    _entered: ClassVar[int] = 0  # times that this process has entered a world

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._ours, self._turn = False, 0
        if size > 1:
            self._store = dist.distributed_c10d._get_default_store()
            # Small messages go over the network without a detour by the GPU, where the group can.
            over_network = "cpu" in str(dist.get_backend_config())
            self._device = torch.device("cpu" if over_network else "cuda")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    @classmethod
    @contextmanager
    def current(cls, threads: int | None = None) -> Iterator["World"]:
        """The world of this process: that of ``torchrun``, or of the process group in use.

        Where ``torchrun`` has set ``WORLD_SIZE`` and there is no process group yet, this makes one
        (gloo for tensors on CPUs, NCCL for those on GPUs, of which each process gets the one of its
        ``LOCAL_RANK`` as ``"cuda"``; gloo where processes have to share a GPU) and destroys it at
        the end. Within it, this gives the same world again.

        Args:
            threads: Threads of each process, where this makes the process group. By default the
                cores are shared out, unless ``OMP_NUM_THREADS`` is set, to other than the 1 that
                ``torchrun`` sets where users set nothing.

        >>> with World.current() as world:
        ...     world.rank, world.size, world.is_main
        (0, 1, True)
        """
        if cls._active is not None:
            yield cls._active
            return
        cls._entered += 1
        ours = join(cls._entered, threads)
        world = cls(dist.get_rank(), dist.get_world_size()) if in_group() else cls()
        world._ours, cls._active = ours, world
        try:
            with contextlib.nullcontext() if world.size == 1 else _without_false_alarms():
                yield world
            world.total(torch.zeros(1))  # nobody closes connections that others still use
        except BaseException as error:
            world._tell(error)
            raise
        finally:
            cls._active = None
            world._close()

    def parallel(self, module: nn.Module, example: Any) -> nn.Module:
        """A module whose gradients are means over the processes.

        Args:
            module: Module that returns what is differentiated first.
            example: An input, to see which parameters get a gradient from it: forces leave the last
                bias without one.
        """
        if self.size == 1:
            return module
        gpus = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(devices=list(gpus)):
            output = module(example)[0].sum()
        learning = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(output, learning, allow_unused=True)
        unused = self.total(torch.tensor([gradient is None for gradient in gradients]).float())
        # Buffers are the same from the beginning, and stay so. (The first name is of torch 2.13.)
        names = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        no_buffers: dict[str, Any] = {name: False}
        with self.communicating():
            return DistributedDataParallel(
                module,
                find_unused_parameters=bool(unused.any()),
                **no_buffers,
            )

    def total(self, values: Tensor) -> Tensor:
        """Sums of the values of all processes, on the CPU."""
        if self.size == 1:
            return values.cpu()
        values = values.to(self._device, copy=True)
        with self.communicating():
            dist.all_reduce(values)
            return values.cpu()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, which can be anything that pickles."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.communicating():
            dist.all_gather_object(values, value)
        return values

    def from_main(self, function: Callable[[], T]) -> T:
        """What a function returns, or raises, on rank 0, which alone calls it.

        So files are read and written once, and all processes learn of a failure.
        """
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        raised: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as error:
                raised, outcome[1] = error, _that_pickles(error)
        with self.communicating():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise raised or outcome[1]
        return outcome[0]

    def share_state(self, model: nn.Module) -> None:
        """Gives all processes the weights and buffers of rank 0."""
        if self.size > 1:
            state = self.from_main(lambda: {k: v.cpu() for k, v in model.state_dict().items()})
            model.load_state_dict(state)

    def check_same(self, **values: Any) -> None:
        """Compares what should be the same in all processes.

        Raises:
            ValueError: If something differs; in all processes.
        """
        first, *others = self.gather(values)
        for rank, other in enumerate(others, 1):
            for name in values:
                if other[name] != first[name]:
                    raise ValueError(
                        f"the processes must train the same: '{name}' is {first[name]!r} in rank "
                        f"0 and {other[name]!r} in rank {rank}"
                    )

    def seed_apart(self, state: Tensor) -> None:
        """Gives the other ranks than 0 random numbers of their own.

        Args:
            state: State of the random numbers of rank 0, from which theirs follow.
        """
        if not self.is_main:
            torch.manual_seed(zlib.crc32(state.numpy().tobytes()) + (self.rank << 32))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Lets rank 0 do something before the others, such as to download and process a data set.

        The others find the files made. On several machines the first process of each goes before
        its fellows, as they need not share a file system. However long it takes, nobody times out.

        Raises:
            RuntimeError: If it failed in a process that goes first.

        >>> with World.current() as world, world.main_first():
        ...     pass  # dataset = QM9(root)
        """
        if self.size == 1:
            yield
            return
        self._turn += 1
        first = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        node = os.environ.get("GROUP_RANK", "0")
        if not self.is_main:
            self._wait_for(self._key(f"turn/{self._turn}/{'0' if first else node}"))
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            if first:
                self._store.set(self._key(f"turn/{self._turn}/{node}"), outcome)

    def _wait_for(self, key: str) -> None:
        with self.communicating():
            while not self._store.check([key]):
                time.sleep(0.05)
            outcome = self._store.get(key).decode()
        if outcome == "failed":
            raise RuntimeError("the data could not be prepared: see the error of rank 0")

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Turns the errors of broken connections into :class:`LostProcessError`."""
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or _BROKEN.search(str(error))):
                raise
            raise LostProcessError(
                f"rank {self.rank} cannot go on without the others: "
                + (self._who_is_lost() or f"the connection broke ({error})")
            ) from error

    def _who_is_lost(self) -> str:
        """Asks the others, who leave word why they end, or that they too lost somebody."""
        told: dict[int, str] = {}
        others = [rank for rank in range(self.size) if rank != self.rank]
        with contextlib.suppress(RuntimeError):  # the store may have been that of the lost one
            self._store.set(self._key(f"end/{self.rank}"), "")
            self._close()  # so that those notice who wait for this one
            deadline = time.monotonic() + _PATIENCE
            while len(told) < len(others) and time.monotonic() < deadline:
                for rank in others:
                    if rank not in told and self._store.check([self._key(f"end/{rank}")]):
                        told[rank] = self._store.get(self._key(f"end/{rank}")).decode()
                time.sleep(0.05)
        failed = [f"rank {rank} failed ({why})" for rank, why in sorted(told.items()) if why]
        silent = ", ".join(str(rank) for rank in others if rank not in told)
        if silent:
            failed.append(f"rank {silent} ended without a word (killed, out of memory?) or hangs")
        return "; ".join(failed)

    def _tell(self, error: BaseException) -> None:
        """Leaves word why this process ends."""
        if self.size > 1 and not isinstance(error, LostProcessError):
            with contextlib.suppress(RuntimeError):
                self._store.set(self._key(f"end/{self.rank}"), f"{type(error).__name__}: {error}")

    def _close(self) -> None:
        if self._ours:
            leave()

    def _key(self, name: str) -> str:
        return f"pyg_schnet/{self._entered}/{name}"


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """Gradients of one row may have any stride, which DDP warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


def _that_pickles(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
