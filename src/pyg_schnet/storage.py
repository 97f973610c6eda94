r"""Files of named tensors: safetensors with JSON in the header, written atomically, checksummed.

One file holds everything, so that no crash can leave half of a checkpoint; nothing in it is
unpickled.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_VERSION = 1
_KEY = "pyg_schnet"


class CorruptFileError(ValueError):
    """A file is damaged, incomplete, or not what it claims to be."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file so that at any moment either the old or the new content is there.

    Args:
        path: Where to; missing folders are made.
        content: All of the new content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_tensors(
    path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any], kind: str
) -> None:
    """Saves tensors and a JSON header in one safetensors file.

    Args:
        path: File to write, atomically.
        tensors: Tensors by name, on any device.
        header: Anything that JSON can hold.
        kind: What the file is, checked on loading.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"version": _VERSION, "kind": kind, "crc32": _checksum(tensors), "header": header}
    write_atomically(path, save(tensors, {_KEY: json.dumps(about)}))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads what :func:`save_tensors` wrote.

    Args:
        path: File to read.
        kind: What the file must be.

    Returns:
        The tensors on the CPU, and the header.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If the file is damaged, of another kind, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(
            f"'{path}' is damaged or not a safetensors file ({error}); "
            "restore it from a copy, or start again without it"
        ) from error
    try:
        about = json.loads(metadata[_KEY])
        version, found = int(about["version"]), about["kind"]
        checksum, header = about["crc32"], about["header"]
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptFileError(
            f"'{path}' was not written by pyg-schnet: its header has no '{_KEY}'; "
            "load its tensors with safetensors.torch.load_file and model.load_state_dict"
        ) from error
    if not isinstance(header, dict):
        raise CorruptFileError(f"'{path}' is damaged: its header is a {type(header).__name__}")
    if version > _VERSION:
        raise CorruptFileError(
            f"'{path}' has format version {version}, this pyg-schnet reads up to {_VERSION}; "
            "update pyg-schnet"
        )
    if found != kind:
        raise CorruptFileError(f"'{path}' holds a {found}, not a {kind}")
    if checksum != _checksum(tensors):
        raise CorruptFileError(
            f"'{path}' is damaged: its checksum does not match its tensors; restore it from a copy"
        )
    return tensors, header


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value
