r"""The files of QM9 as published: an archive of xyz files, and the list of doubtful molecules.

A file of the archive holds one molecule::

    5
    gdb 1   157.7118   157.70997   157.70699   0.   13.21   ...   -40.498597   6.469
    C   -0.0126981359    1.0858041578    0.0080009958   -0.535689
    ...                                   (one line per atom: symbol, x y z in angstrom, charge)
    1341.307   1341.3284   1341.365   ...               (frequencies)
    C   C                                               (SMILES of GDB-17, of the geometry)
    InChI=1S/CH4/h1H4   InChI=1S/CH4/h1H4
"""

import math
import tarfile
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
from tqdm import tqdm

from .qm9_properties import FILE_COLUMNS, RawMolecules

T = TypeVar("T")

_ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
# Around the atoms: their number and the properties; frequencies, SMILES and InChI.
_LINES_BEFORE, _LINES_AFTER = 2, 3


class _Columns:
    """Molecules as they come in, in compact arrays."""

    def __init__(self) -> None:
        self.index = array("q")
        self.num_atoms = array("q")
        self.z = array("B")
        self.pos = array("d")
        self.properties = array("d")
        self.smiles: list[str] = []

    def finish(self) -> RawMolecules:
        return RawMolecules(
            np.array(self.index, dtype=np.int64),
            np.array(self.num_atoms, dtype=np.int64),
            np.array(self.z, dtype=np.uint8),
            np.array(self.pos, dtype=np.float64).reshape(-1, 3),
            np.array(self.properties, dtype=np.float64).reshape(-1, len(FILE_COLUMNS)),
            self.smiles,
        )


def read_archive(path: str | Path) -> RawMolecules:
    r"""Reads all molecules of ``dsgdb9nsd.xyz.tar.bz2``, in the order of the archive.

    The archive is read as a stream: nothing is unpacked to the disk.

    Args:
        path: The archive.

    Raises:
        ValueError: If the archive is damaged, or a molecule in it cannot be understood; names the
            file, the line and the text in question.
    """
    columns = _Columns()
    try:
        for name, text in _texts(Path(path)):
            _parse_molecule(text, f"'{name}' in '{path}'", columns)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the system, not from the archive
        raise ValueError(
            f"'{path}' is damaged or no bzip2-compressed tar archive "
            f"(after {len(columns.smiles)} molecules: {error})"
        ) from error
    return columns.finish()


def read_molecule(text: str, source: str = "text") -> RawMolecules:
    r"""Reads one molecule.

    Args:
        text: Content of an xyz file of QM9.
        source: Where it comes from, for messages.

    Raises:
        ValueError: If the text does not follow the format; names the source, the line and the
            text in question.
    """
    columns = _Columns()
    _parse_molecule(text, source, columns)
    return columns.finish()


def read_uncharacterized(path: str | Path, count: int, largest: int) -> np.ndarray:
    r"""Reads the numbers of the molecules whose geometry does not fit their SMILES.

    Copies of the list in circulation differ in their header, so only what it says is checked.

    Args:
        path: ``uncharacterized.txt``, a table with the number of a molecule, from 1, in its first
            column.
        count: How many there must be; 3,054 in the official list.
        largest: Largest possible number.

    Returns:
        The numbers in ascending order, ``[count]`` int64.

    Raises:
        ValueError: If there are more or fewer numbers, if one comes twice or is out of range.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    found: list[int] = []
    for number, line in enumerate(lines, start=1):
        first = line.split(maxsplit=1)[:1]
        if not first or not first[0].isdecimal():
            continue
        index = int(first[0])
        if not 1 <= index <= largest:
            raise ValueError(
                f"'{path}', line {number}: molecules are numbered from 1 to {largest} "
                f"(got '{line.strip()}')"
            )
        found.append(index)
    unique = np.unique(np.array(found, dtype=np.int64))
    if not len(found) == len(unique) == count:
        raise ValueError(
            f"'{path}' must list {count} different molecules (got {len(found)}, "
            f"{len(unique)} of them different)"
        )
    return unique


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Names and contents of the xyz files in the archive, with a progress bar over its bytes."""
    with (
        path.open("rb") as file,
        tqdm.wrapattr(
            file, "read", total=path.stat().st_size, desc="Reading QM9", disable=None
        ) as counted,
        tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|bz2") as archive,
    ):
        for member in archive:
            # It would keep a record of every file. The attribute is not in the type stubs.
            archive.members = []  # type: ignore[attr-defined]
            content = archive.extractfile(member) if member.name.endswith(".xyz") else None
            if content is not None:
                yield member.name, content.read().decode("utf-8", errors="replace")


def _parse_molecule(text: str, source: str, columns: _Columns) -> None:
    lines = text.rstrip().splitlines() or [""]

    def parse(number: int, how: Callable[[str], T]) -> T:
        try:
            return how(lines[number])
        except ValueError as error:
            raise ValueError(
                f"{source}, line {number + 1}: {error} (got '{lines[number]}')"
            ) from error

    num_atoms = parse(0, partial(_parse_count, num_lines=len(lines)))
    index, properties = parse(1, _parse_properties)
    atoms = [parse(_LINES_BEFORE + i, _parse_atom) for i in range(num_atoms)]
    columns.smiles.append(parse(_LINES_BEFORE + num_atoms + 1, _parse_smiles))
    columns.index.append(index)
    columns.num_atoms.append(num_atoms)
    columns.properties.extend(properties)
    for atomic_number, position in atoms:
        columns.z.append(atomic_number)
        columns.pos.extend(position)


def _parse_count(line: str, num_lines: int) -> int:
    num_atoms = int(line)
    expected = _LINES_BEFORE + num_atoms + _LINES_AFTER
    if num_atoms < 1 or num_lines != expected:
        raise ValueError(f"{num_atoms} atoms need {expected} lines, but there are {num_lines}")
    return num_atoms


def _parse_properties(line: str) -> tuple[int, list[float]]:
    words = line.split()  # also drops the tab at the end
    if len(words) != 2 + len(FILE_COLUMNS) or words[0] != "gdb":
        raise ValueError(f"must be 'gdb', a number and {len(FILE_COLUMNS)} properties")
    return int(words[1]), [_number(word) for word in words[2:]]


def _parse_atom(line: str) -> tuple[int, list[float]]:
    words = line.split()
    if len(words) != 5:
        raise ValueError("must be a symbol, x, y, z and a charge")
    if words[0] not in _ATOMIC_NUMBERS:
        raise ValueError(f"QM9 has no element '{words[0]}'")
    x, y, z, _charge = [_number(word) for word in words[1:]]
    return _ATOMIC_NUMBERS[words[0]], [x, y, z]


def _parse_smiles(line: str) -> str:
    words = line.split()
    if not words:
        raise ValueError("must be the SMILES")
    return words[0]


def _number(word: str) -> float:
    """Reads a number, be it written ``1.5e-6`` or, as Mathematica does, ``1.5*^-6``."""
    value = float(word.replace("*^", "e"))
    if not math.isfinite(value):
        raise ValueError(f"'{word}' is not finite")
    return value
