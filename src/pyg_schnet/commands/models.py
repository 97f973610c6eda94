r"""Models from flags and from files."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..nn import SchNet
from .flags import UsageError
from .settings import Setting, arguments_of, flag_of

#: Constructors by name; the first is the usual one.
PRESETS: dict[str, Callable[..., SchNet]] = {"paper": SchNet.paper, "default": SchNet}
# Arguments of SchNet that are functions, tensors, or follow from the data.
_SKIPPED = frozenset(
    {"interaction_graph", "filter", "max_num_neighbors", "mean", "std", "atomref", "units"}
)
# Settings that follow from the label unless they are given.
_HEAD = ("readout", "dipole", "target")


def model_settings() -> list[Setting]:
    """The arguments of :class:`SchNet` that are flags."""
    defaults = {f"--model {name}": make().config for name, make in PRESETS.items()}
    for values in defaults.values():
        values |= dict.fromkeys(_HEAD, "that of the label")
    return arguments_of(SchNet.__init__, SchNet, defaults, _SKIPPED)


def build(
    preset: str, settings: Mapping[str, Any], head: Mapping[str, Any], units: str | None
) -> SchNet:
    """A new model.

    Args:
        preset: Name of the constructor.
        settings: Arguments to change.
        head: Arguments that follow from the label; ``settings`` go first.
        units: Unit of what it predicts.
    """
    return PRESETS[preset](**{**head, "units": units, **settings})


def contradictions(model: SchNet, settings: Mapping[str, Any]) -> list[str]:
    """Flags that ask for another architecture than a model has, each with both values."""
    found = []
    for name, value in settings.items():
        has = model.config.get(name, value)
        if (list(value) if isinstance(value, tuple | list) else value) != has:
            found.append(f"{flag_of(name)} {value} (it has {has})")
    return found


def device_of(name: str) -> torch.device:
    """A device by its name, ``"auto"`` for a GPU if there is one.

    Raises:
        UsageError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: PyTorch has no such device; try cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this PyTorch sees no CUDA device")
    return device
