"""Finds on the CPU what would go wrong on a GPU: where the host waits, or works."""

from types import TracebackType

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# These look at values. Sizes that depend on values are looked up as well.
_WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "bincount",
    "masked_select",
    "_linalg_svd",
    "_linalg_eigh",
)


class Waits(TorchDispatchMode):
    """Within this context, ``count`` says how often, as far as it shows on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        waits = name in _WAITING
        if name == "repeat_interleave":
            waits = (kwargs or {}).get("output_size") is None
        if name == "index":
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        self.count += waits
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> "Waits":
        # Copies to the host, which on the CPU are none.
        self._tolist, self._cpu = torch.Tensor.tolist, torch.Tensor.cpu
        waits = self

        def tolist(tensor):
            waits.count += 1
            return waits._tolist(tensor)

        def cpu(tensor):
            waits.count += 1
            return waits._cpu(tensor)

        torch.Tensor.tolist, torch.Tensor.cpu = tolist, cpu
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch.Tensor.tolist, torch.Tensor.cpu = self._tolist, self._cpu
        super().__exit__(kind, error, trace)


class Strangers(TorchDispatchMode):
    """Counts operations, and those with a tensor that is on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.strange = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.seen += 1
        if any(tensor.is_cpu for tensor in tensors):
            self.strange.append(func.name())
        return out


def on_meta(holder: object) -> None:
    """Moves all tensors that an object has to the device without values."""
    for name, value in vars(holder).items():
        if isinstance(value, torch.Tensor):
            setattr(holder, name, value.to("meta"))
