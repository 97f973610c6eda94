"""Counts how often the host would wait for a GPU: wherever it needs to know a number."""

from types import TracebackType

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
