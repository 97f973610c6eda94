r"""What a run was asked to do, in ``run.json`` beside its results."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..storage import CorruptFileError, write_atomically
from ..training import TrainConfig
from ..training.checkpoint import LAST
from ..training.lock import LOCK, locked
from .flags import UsageError, meant
from .sources import DataSettings

NAME = "run.json"


@dataclass(frozen=True)
class Record:
    """Everything that repeats a run.

    Attributes:
        data: Its data; paths are absolute.
        model: Architecture of its model, ``SchNet(**model)``.
        mode: How its filters are evaluated.
        train: Settings of training.
        init: File of the model it began with, if it did.
        parts: Number of molecules in each part of the data.
        fingerprint: Checksum of the training set.
    """

    data: DataSettings
    model: dict[str, Any]
    mode: str
    train: TrainConfig
    init: str | None
    parts: dict[str, int]
    fingerprint: int

    def save(self, directory: Path) -> None:
        """Writes ``run.json``, atomically."""
        content = asdict(self) | {"versions": versions()}
        write_atomically(directory / NAME, json.dumps(content, indent=2).encode())

    @classmethod
    def load(cls, directory: str | Path) -> "Record":
        """Reads ``run.json``.

        Raises:
            FileNotFoundError: If there is none.
            CorruptFileError: If it is damaged.
        """
        path = Path(directory) / NAME
        if not path.is_file():
            raise FileNotFoundError(f"'{directory}' is no directory of a run: it has no '{NAME}'")
        content = read_json(path)
        try:
            sections = {field.name: content[field.name] for field in fields(cls)}
        except KeyError as error:
            raise CorruptFileError(f"'{path}' has no {error}: restore it from a copy") from error
        sections["data"] = make(DataSettings, sections["data"], path)
        sections["train"] = make(TrainConfig, sections["train"], path)
        return cls(**sections)


@contextmanager
def withdrawn_unless_begun(directory: Path) -> Iterator[None]:
    """Removes what a new run has written if it fails before its first checkpoint.

    Otherwise the directory would count as a run, and be refused to the same command, corrected. A
    run that is interrupted or killed so early stays, and can be resumed.
    """
    before = set(directory.iterdir()) if directory.is_dir() else None
    try:
        yield
    except Exception:
        if directory.is_dir():
            _withdraw(directory, before)
        raise


def _withdraw(directory: Path, before: set[Path] | None) -> None:
    try:
        with locked(directory):
            if (directory / LAST).exists():
                return
            for pattern in (NAME, "split*.json", "config.json", "*.part"):
                for path in set(directory.glob(pattern)) - (before or set()):
                    path.unlink()
    except BlockingIOError:  # it is the run of another process
        return
    if before is None:
        (directory / LOCK).unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads settings.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If it holds no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptFileError(f"'{path}' holds no JSON ({error})") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"'{path}' holds no settings (got a {type(content).__name__})")
    return content


def make(cls: type, values: Mapping[str, Any], where: str | Path) -> Any:
    """An instance of a dataclass of settings.

    Raises:
        UsageError: If there is no such setting, or one has the wrong type.
    """
    names = [field.name for field in fields(cls)]
    for name in values:
        if name not in names:
            hint = meant(name, names) or f"there are {', '.join(names)}"
            raise UsageError(f"unknown setting '{name}' in '{where}': {hint}")
    try:
        return cls(**values)
    except TypeError as error:  # the type of a value, since names are known
        raise UsageError(f"{error}, in '{where}'") from error


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    from .. import __version__

    return {
        "pyg-schnet": __version__,
        "torch": torch.__version__,
        "torch_geometric": importlib.metadata.version("torch_geometric"),
        "python": platform.python_version(),
    }
