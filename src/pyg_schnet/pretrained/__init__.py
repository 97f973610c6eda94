r"""Trained models that come with the package, each with a record of its training and its errors.

They are runs of ``benchmarks/run.py``, put here by ``benchmarks/publish.py``.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from ..nn.portable import Portable

Model = TypeVar("Model", bound=Portable)

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of all trained models."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def record(name: str) -> dict[str, Any]:
    """How a model was trained, and how well it predicts.

    Args:
        name: One of :func:`names`.

    Returns:
        Among others ``test`` (errors ``energy_mae``, ``energy_rmse`` and, with forces,
        ``force_mae``, ``force_rmse``), ``unit`` of energies (forces: per angstrom), ``sizes`` of
        the parts of the data, ``config`` of the training, ``command``, ``commit``, ``environment``,
        ``step`` and ``seconds``.

    Raises:
        ValueError: If there is no such model.

    >>> record("md17-ethanol")["sizes"]["train"]
    1000
    """
    found: dict[str, Any] = json.loads(_file(name, "json").read_text())
    return found


def load(kind: type[Model], name: str) -> Model:
    """Loads a model, see :meth:`SchNet.from_pretrained`."""
    model = kind.load(file_of(name))
    model.eval()  # type: ignore[attr-defined] # of the module that it is
    return model


def file_of(name: str) -> Path:
    """The file of a model.

    Raises:
        ValueError: If there is no such model.
    """
    return _file(name, "safetensors")


def _file(name: str, ending: str) -> Path:
    if name not in names():
        listed = " or ".join(f"'{known}'" for known in names())
        hint = ""
        if Path(name).exists():
            hint = f"; SchNet.load('{name}') loads a model of your own, of a file or of a run"
        raise ValueError(f"there is no trained model '{name}': choose {listed}{hint}")
    return _FOLDER / f"{name}.{ending}"
