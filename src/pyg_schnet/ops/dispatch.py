r"""Which kernels run: plain PyTorch, Numba on the CPU, or Triton on a GPU."""

import importlib.util
import os
from types import ModuleType, TracebackType

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("reference", "cpu", "triton")

_selected: str | None = None
# Looked up once, without importing it: compiled graphs cannot.
_has_triton = importlib.util.find_spec("triton") is not None
# Whether Triton's kernels run on CPU tensors; known when "triton" is selected.
_interpreted = False

#: Whether this process is the child of a fork. OpenMP threads do not survive one, and their runtime
#: would wait for them forever: such a process uses its own thread only, as PyTorch's loaders want.
forked = False


def _after_fork() -> None:
    global forked
    forked = True


# Here, and not beside the kernels: they are loaded when first needed, maybe after a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class backend:
    r"""Selects the kernels of all operators, for good or within a ``with`` block.

    By default tensors of float32 and float64 use the Numba kernels (``"cpu"``) on the CPU and the
    Triton kernels (``"triton"``) on a GPU if Triton is installed, as it is with PyTorch for CUDA on
    Linux; all others use plain PyTorch (``"reference"``). The selection holds for the whole
    process. Triton's kernels also run on CPU tensors, in its interpreter, if the environment
    variable ``TRITON_INTERPRET`` is 1 before Triton is imported: slow, for tests.

    Args:
        name: ``"reference"``, ``"cpu"``, ``"triton"``, or ``None`` for the default.

    Raises:
        ValueError: If there is no backend of that name.
        ImportError: For ``"triton"``, if Triton is not installed.

    >>> from pyg_schnet import ops
    >>> with ops.backend("reference"):
    ...     pass
    """

    def __init__(self, name: str | None):
        global _selected, _interpreted
        if name is not None and name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)} (got '{name}')")
        if name == "triton":
            _interpreted = _triton_kernels().interpreted()
        self._previous = _selected
        _selected = name

    def __enter__(self) -> "backend":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _selected
        _selected = self._previous


def selected_backend(tensor: Tensor) -> str:
    """The backend for operators on ``tensor``.

    Raises:
        ValueError: If the selected one cannot handle it.
    """
    device = tensor.device.type
    real = tensor.dtype in (torch.float32, torch.float64)
    if _selected == "cpu" and not (real and device == "cpu"):
        raise ValueError(
            "backend 'cpu' takes float32 and float64 tensors on the CPU "
            f"(got {tensor.dtype} on {tensor.device}): use backend(None) to let tensors decide"
        )
    if _selected == "triton" and not (real and (device == "cuda" or _interpreted)):
        raise ValueError(
            "backend 'triton' takes float32 and float64 tensors on a GPU "
            f"(got {tensor.dtype} on {tensor.device}): use backend(None) to let tensors decide, or "
            "set TRITON_INTERPRET=1 before Python starts to run its kernels on the CPU"
        )
    if _selected is not None:
        return _selected
    if real and device == "cpu":
        return "cpu"
    return "triton" if real and device == "cuda" and _has_triton else "reference"


def has_kernels(tensor: Tensor) -> bool:
    """Whether operators on ``tensor`` have kernels of their own, faster than plain PyTorch."""
    return selected_backend(tensor) != "reference"


def kernels_for(tensor: Tensor) -> ModuleType:
    """The module whose primitives run on ``tensor``."""
    name = selected_backend(tensor)
    if name == "cpu":
        from . import cpu

        return cpu
    if name == "triton":
        return _triton_kernels()
    from . import reference

    return reference


def _triton_kernels() -> ModuleType:
    if not _has_triton:
        raise ImportError(
            "backend 'triton' needs Triton, which comes with PyTorch for CUDA on Linux: install "
            "that, 'pip install triton', or use backend('reference')"
        )
    from . import cuda

    return cuda


def transforming() -> bool:
    """Whether ``torch.func`` or forward-mode derivatives are at work: these need plain PyTorch."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def use_cpu_kernels(tensor: Tensor) -> bool:
    """Whether eager operators on ``tensor`` run on Numba; tracing sees plain PyTorch."""
    return (
        not torch.compiler.is_compiling()
        and not transforming()
        and selected_backend(tensor) == "cpu"
    )


def batched(*tensors: Tensor | None) -> bool:
    """Whether ``is_grads_batched`` of autograd is at work, which plain PyTorch alone can do."""
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)
