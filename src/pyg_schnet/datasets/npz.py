r"""Files of NumPy arrays, ``.npz``, that may be damaged."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ..storage import CorruptFileError


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open file by name, each read when it is asked for; nothing is unpickled."""

    def __init__(self, path: Path, file: NpzFile):
        self._path, self._file = path, file

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads an array.

        Raises:
            CorruptFileError: If it is damaged, or holds Python objects.
        """
        if name not in self:
            raise KeyError(name)
        try:
            return self._file[name]
        except Exception as error:  # archive, compression and header each fail in many ways
            raise CorruptFileError(_damaged(self._path, f"'{name}': {error}")) from error

    def __contains__(self, name: object) -> bool:
        return name in self._file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)


def check_npz(path: Path) -> None:
    """Looks at a file from outside; damage inside shows when it is read.

    Raises:
        CorruptFileError: If it is something else.
    """
    if not zipfile.is_zipfile(path):
        raise CorruptFileError(f"'{path}' is no npz or zip file, whatever its name")


@contextmanager
def open_npz(path: Path) -> Iterator[Arrays]:
    """Opens a file.

    Args:
        path: The file.

    Raises:
        CorruptFileError: If it is damaged or something else.
    """
    check_npz(path)
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # as above
        raise CorruptFileError(_damaged(path, str(error))) from error
    with file:
        yield Arrays(path, file)


def _damaged(path: Path, error: str) -> str:
    return f"'{path}' is damaged ({error}): fetch it again"
