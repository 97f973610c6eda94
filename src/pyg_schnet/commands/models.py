r"""Models from flags and from files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import pretrained
from ..nn import SchNet
from ..storage import CorruptFileError
from ..training.checkpoint import LAST, load_averaged
from .flags import UsageError
from .settings import Setting, arguments_of, flag_of

BEST = "best.safetensors"
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


def find(path: str | Path) -> Path:
    """The file of a model: itself, the best model of a run, or one that comes with the package.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    if not path.exists():
        if str(path) in pretrained.names():
            return pretrained.file_of(str(path))
        raise FileNotFoundError(
            f"there is no file or directory '{path}', and no trained model of that name comes with "
            f"the package: it has {', '.join(pretrained.names())}"
        )
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise FileNotFoundError(f"'{path}' is no directory of a run: it has no '{BEST}'")


def load_model(path: str | Path, device: torch.device | str = "cpu") -> SchNet:
    """Loads a model, or the averaged weights of a training checkpoint.

    Args:
        path: File, directory of a run, whose best model is taken, or name of a trained model
            that comes with the package, as of :meth:`SchNet.from_pretrained`.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is none.
        CorruptFileError: If it is damaged or holds something else.
    """
    path = find(path)
    try:
        return SchNet.load(path).to(device)
    except CorruptFileError as error:
        if "holds a training checkpoint" not in str(error):
            raise
    return load_averaged(path).to(device)


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
