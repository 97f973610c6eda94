r"""Time and memory of calls on a device.

On a GPU the host only asks for work, and may be far ahead of it. So an event is recorded before and
after each call, and the host waits once, behind the last call: the time between the two is that
of the device, idle where the host is too slow to keep it busy. That is what a loop of such calls
takes. Caches are as the calls before have left them: the L2 cache is not flushed.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from worker import forget_peak, memory
from worker import measure as measure_on_host

_MOST_CALLS = 1000


def synchronize(device: str) -> None:
    """Waits for all work on a device."""
    if device != "cpu":
        torch.cuda.synchronize()


def measure(
    run: Callable[[], object], seconds: float, device: str, warm_up: int = 3, at_least: int = 5
) -> dict[str, Any]:
    """Times of single calls in milliseconds, after a warm-up.

    Args:
        run: What to time.
        seconds: About how long.
        device: ``"cpu"``, timed by the clock of the host, or ``"cuda"``, by events.
        warm_up: Calls before: they compile, and fill caches.
        at_least: Calls to time at least.

    Returns:
        ``first_ms``, with all compilation; ``times_ms``; and ``wall_ms``, the mean by the clock of
        the host from the first of these calls to the end of the last.
    """
    if device == "cpu":
        measured = measure_on_host(run, seconds, warm_up, at_least)  # type: ignore[arg-type]
        return measured | {"wall_ms": sum(measured["times_ms"]) / len(measured["times_ms"])}
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    first = time.perf_counter() - begin
    for _ in range(warm_up - 1):
        run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    one = time.perf_counter() - begin
    calls = max(at_least, min(_MOST_CALLS, round(seconds / max(one, 1e-9))))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    begin = time.perf_counter()
    for before, after in events:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    wall = time.perf_counter() - begin
    times = [before.elapsed_time(after) for before, after in events]
    return {"first_ms": 1e3 * first, "times_ms": times, "wall_ms": 1e3 * wall / calls}


class Memory:
    """Memory in MB at its peak, beyond what there was when this was made.

    Of a GPU it is what PyTorch has handed out, without what it keeps in reserve.
    """

    def __init__(self, device: str):
        self._device = device
        if device != "cpu":
            torch.cuda.init()
        self._before = memory("VmRSS") if device == "cpu" else _allocated()

    def forget_peak(self) -> None:
        """Measures the peak anew from here on."""
        if self._device == "cpu":
            forget_peak()
        else:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """The peak."""
        if self._device == "cpu":
            return memory("VmHWM") - self._before
        return torch.cuda.max_memory_allocated() / 2**20 - self._before


def _allocated() -> float:
    return torch.cuda.memory_allocated() / 2**20


def release(device: str) -> None:
    """Gives memory that nobody uses back to a GPU."""
    if device != "cpu":
        gc.collect()
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how PyTorch says that there is not enough memory."""
    words = ("allocate memory", "not enough memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
