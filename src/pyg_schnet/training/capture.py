"""Work that is recorded as a CUDA graph, and then repeated by a single call."""

import gc
import warnings
from collections.abc import Callable

import torch

# Calls before the recording, as they are: they compile kernels and make what is kept from call to
# call, such as the state of the optimiser and constants, which must not belong to the graph.
_WARM_UP = 3


class Captured:
    """A function that takes and returns nothing, and works on tensors that stay where they are.

    On a GPU it is called a few times, on a stream of its own, then recorded as a CUDA graph that
    later calls repeat: hundreds of kernels for the price of one call. What cannot be recorded is a
    warning, and called as it is; so is everything on other devices. Every call does the work once.

    Args:
        function: What to do. It must not look at a number on the device, wait for it, or depend on
            anything on the host that changes.
        device: Where it works.

    Attributes:
        is_captured: Whether there is a CUDA graph.
    """

    def __init__(self, function: Callable[[], None], device: torch.device):
        self._function, self._device = function, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._calls = 0
        self._plain = device.type != "cuda"

    @property
    def is_captured(self) -> bool:
        """Whether there is a CUDA graph."""
        return self._graph is not None

    def __call__(self) -> None:
        """Does the work."""
        if self._plain:
            self._function()
            return
        with torch.cuda.device(self._device):
            if self._graph is None and self._calls >= _WARM_UP:
                self._capture()
            if self._graph is not None:
                self._graph.replay()
            elif self._plain:
                self._function()
            else:
                self._warm_up()

    def _warm_up(self) -> None:
        self._calls += 1
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._function()
        here.wait_stream(self._stream)

    def _capture(self) -> None:
        # Graphs of autograd in dead cycles remember other streams.
        gc.collect()
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self._function()
        except RuntimeError as error:
            self._plain = True
            torch.cuda.set_stream(here)  # which the end of a failed capture forgets
            torch.cuda.synchronize()
            warnings.warn(
                f"no CUDA graph could be captured ({error}): kernels are launched one by one, "
                "which takes longer",
                stacklevel=4,
            )
        else:
            self._graph = graph
