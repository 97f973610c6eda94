r"""Files of ``torch.save`` read as data: no class in them is imported, no function called.

A pickle is a program, and loading one made of models runs it. Here tensors become tensors, the
containers of Python remain what they are, and everything else becomes a :class:`Record`, which
knows the name of its class and its state, and does nothing.
"""

import io
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from ..storage import CorruptFileError

# What the format before PyTorch 1.6 begins with.
_MAGIC = 0x1950A86A20F9469CFC6C
# So many numbers may be made of fewer, by strides of zero.
_EXPANDED = 1 << 20
_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class Record:
    r"""An object in a pickle: a name and a state, and nothing that could run.

    A class or function itself is a subclass of this one.

    Attributes:
        kind: Name of the class or function, with its module.
        args: What it would have been called with.
        state: What its attributes would have become.
    """

    kind: ClassVar[str] = ""
    args: tuple
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> "Record":
        """Keeps the arguments of a call that is not made."""
        self = super().__new__(cls)
        self.args = args
        self.state = {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of dictionaries of other kinds are not needed."""

    def append(self, value: Any) -> None:
        """Items of lists of other kinds are not needed."""

    def extend(self, values: Any) -> None:
        """As :meth:`append`."""

    def add(self, value: Any) -> None:
        """As :meth:`append`, of sets."""


def load_records(source: str | Path | BinaryIO) -> Any:
    r"""Reads a file that ``torch.save`` wrote, of a state dict as well as of a whole model.

    Both formats are read, the archive of today and that before PyTorch 1.6.

    Args:
        source: The file, or an open one.

    Returns:
        The object, on the CPU, with a :class:`Record` for whatever is not a tensor or a container.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If it is damaged, or was not written by ``torch.save``.
        ValueError: If it holds TorchScript, which is code.
    """
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            raise FileNotFoundError(f"there is no file '{source}'")
        name, content = str(source), Path(source).read_bytes()
    else:
        name, content = str(getattr(source, "name", "the file")), source.read()
    file = io.BytesIO(content)
    try:
        if content.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                return _load_archive(archive, name)
        return _load_legacy(file)
    except CorruptFileError:
        raise
    except _Scripted as error:
        raise ValueError(
            f"'{name}' is a TorchScript module, code that would be run: give the model as it was "
            "before it was deployed, or its state_dict"
        ) from error
    except Exception as error:  # a pickle can fail in any way
        raise CorruptFileError(
            f"'{name}' is damaged or was not written by torch.save "
            f"({type(error).__name__}: {error})"
        ) from error


class _Scripted(Exception):
    """The archive holds TorchScript."""


class _Function:
    """A function of ours that a pickle may call, and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change a function")


class _Unpickler(pickle._Unpickler):
    """Resolves names to tensors, containers and records; never imports.

    It is that in Python: the one in C makes room for as many numbered objects as an opcode says,
    and four bytes in a file of hundreds can ask for 32 GB.
    """

    def __init__(self, file: BinaryIO, storage: Callable[..., Tensor]):
        super().__init__(file, encoding="latin-1")
        self._storage = storage

    def _load_bytearray(self) -> None:
        raise pickle.UnpicklingError("the file holds a bytearray, which no model has")

    # It would make room for as many bytes as the opcode says before it reads them.
    dispatch = {  # noqa: RUF012 - as in the base class
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _load_bytearray,  # type: ignore[dict-item] # of this class
    }

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name in ("set", "frozenset") and module in ("builtins", "__builtin__"):
            return set if name == "set" else frozenset
        if module.split(".")[0] == "torch":
            if name in _DTYPES:
                return _Function(lambda dtype=_DTYPES[name]: dtype)
            if name in _REBUILD:
                return _Function(_REBUILD[name])
        return type(name, (Record,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Storages; of modules in the old format, the class without its source."""
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage":
            raise pickle.UnpicklingError(f"unknown kind of reference '{pid[0]}'")
        return self._storage(*pid[1:])


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # A view, refused if it reaches beyond the storage; the old format fills storages afterwards.
    if math.prod(size) > max(storage.numel(), _EXPANDED):
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(size)} out of {storage.numel()} numbers"
        )
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _first(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def _rebuild_from_type(function: Any, kind: Any, args: tuple, state: Any) -> Any:
    return function(*args)


_REBUILD: dict[str, Callable] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_from_type_v2": _rebuild_from_type,
}


def _load_archive(archive: zipfile.ZipFile, name: str) -> Any:
    """The format since PyTorch 1.6: a zip archive of a pickle and a record per storage."""
    names = archive.namelist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise CorruptFileError(f"'{name}' is a compressed archive, and not one of torch.save")
    if any(entry.rpartition("/")[2] == "constants.pkl" for entry in names):
        raise _Scripted
    pickles = [entry for entry in names if entry.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise CorruptFileError(f"'{name}' is an archive, but not one of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise CorruptFileError(f"'{name}' was written on a big-endian machine")
    storages: dict[str, Tensor] = {}

    def storage(kind: Any, key: str, device: str, size: int) -> Tensor:
        if key not in storages:
            content = archive.read(f"{folder}data/{key}")
            storages[key] = _tensor(content, _dtype(kind), size)
        return storages[key]

    return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _load_legacy(file: io.BytesIO) -> Any:
    """The format before: pickles one after the other, and the storages behind them."""
    if _Unpickler(file, _refuse).load() != _MAGIC:
        raise pickle.UnpicklingError("it does not begin as such a file does")
    _Unpickler(file, _refuse).load()  # version of the format, always 1001
    machine = _Unpickler(file, _refuse).load()
    if not machine["little_endian"]:
        raise pickle.UnpicklingError("it was written on a big-endian machine")
    storages: dict[str, Tensor] = {}

    def storage(kind: Any, key: str, device: str, size: int, view: Any) -> Tensor:
        if key not in storages:
            available = len(file.getbuffer())
            dtype = _dtype(kind)
            if not 0 <= size * dtype.itemsize <= available:
                raise pickle.UnpicklingError(f"a storage of {size} numbers is not in the file")
            storages[key] = torch.zeros(size, dtype=dtype)
        if view is None:
            return storages[key]
        _, offset, length = view
        return storages[key][offset : offset + length]

    loaded = _Unpickler(file, storage).load()
    for key in _Unpickler(file, _refuse).load():
        (size,) = struct.unpack("<q", file.read(8))
        wanted = storages[key]
        content = file.read(size * wanted.dtype.itemsize)
        wanted.copy_(_tensor(content, wanted.dtype, wanted.numel()))
    return loaded


def _refuse(*_: Any) -> Tensor:
    raise pickle.UnpicklingError("a tensor where none belongs")


def _dtype(kind: Any) -> torch.dtype:
    if not isinstance(kind, _Function):
        raise pickle.UnpicklingError(f"unknown kind of numbers {getattr(kind, 'kind', kind)!r}")
    return kind()


def _tensor(content: bytes, dtype: torch.dtype, size: int) -> Tensor:
    if len(content) != size * dtype.itemsize:
        raise pickle.UnpicklingError(
            f"{len(content)} bytes where {size} numbers of {dtype} should be"
        )
    if sys.byteorder != "little":
        raise NotImplementedError("files of torch.save are read on little-endian machines only")
    if size == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype)
