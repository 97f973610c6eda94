r"""The databases of ISO17, read as a stream and without ASE.

They are SQLite files as :mod:`ase.db` writes them, one row of the table ``systems`` per structure:

- ``numbers`` (int32) and ``positions`` (float64) are little-endian arrays;
- ``key_value_pairs`` is JSON with ``total_energy`` in eV;
- ``data`` holds ``atomic_forces`` in eV/Ang: JSON text up to version 8 of the format; from version
  9 on a byte number (int64), arrays, and from that byte on JSON, which may refer to the arrays.

An array is written as nested lists or as ``{"__ndarray__": [shape, type, content]}``, the content
being a list of numbers or the number of the byte where it begins. Anything else is an error.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

# All molecules of ISO17 are C7O2H10; their atoms come in different orders.
COMPOSITION = np.array([1] * 10 + [6] * 7 + [8] * 2)
_NUM_ATOMS = len(COMPOSITION)
_ROWS_AT_ONCE = 4096
_QUERY = "SELECT id, numbers, positions, pbc, key_value_pairs, data FROM systems ORDER BY id"
Row = tuple[int, bytes, bytes, int, str, str | bytes]


@dataclass(frozen=True)
class RawConformations:
    r"""M conformations of C7O2H10.

    Attributes:
        id: Numbers of the rows, from 1, ``[M]``.
        z: Atomic numbers, ``[M, 19]`` int64.
        pos: Positions in angstrom, ``[M, 19, 3]`` float32.
        energy: In eV, ``[M]`` float64.
        force: In eV/Ang, ``[M, 19, 3]`` float32.
    """

    id: np.ndarray
    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    force: np.ndarray


def read_database(path: Path, ids: np.ndarray | None = None) -> RawConformations:
    r"""Reads a database of ISO17 and checks its content.

    Args:
        path: The SQLite file.
        ids: Numbers of the rows to read, from 1; all if ``None``.

    Returns:
        The conformations in ascending order of their numbers.

    Raises:
        ValueError: If the file is damaged, if a row is missing or cannot be understood; names the
            row.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (total,) = database.execute("SELECT COUNT(*) FROM systems").fetchone()
            rows = database.execute(_QUERY)
            return _read_rows(path, _progress(path, rows, total), total, ids)
    except sqlite3.Error as error:
        raise ValueError(f"'{path}' is damaged or no ASE database ({error})") from error


def read_ids(path: Path) -> np.ndarray:
    r"""Reads a list of rows, one number a line, from 1.

    Args:
        path: ``train_ids.txt`` or ``validation_ids.txt``.

    Returns:
        The numbers in ascending order, int64.

    Raises:
        ValueError: If these are not different positive numbers.
    """
    words = path.read_text(encoding="utf-8", errors="replace").split()
    wrong = [word for word in words if not word.isdecimal() or int(word) < 1]
    if wrong or not words or len(set(words)) < len(words):
        example = f", among them '{wrong[0]}'" if wrong else ""
        raise ValueError(
            f"'{path}' must list different numbers from 1, one a line (got {len(words)} words, "
            f"{len(set(words))} of them different{example})"
        )
    return np.sort(np.array(words, dtype=np.int64))


def _progress(path: Path, rows: Iterator[Row], total: int) -> Iterator[Row]:
    yield from tqdm(rows, desc=f"Reading {path.name}", total=total, disable=None)


def _read_rows(
    path: Path, rows: Iterator[Row], total: int, ids: np.ndarray | None
) -> RawConformations:
    if ids is not None:
        wanted = frozenset(ids.tolist())
        rows, total = (row for row in rows if row[0] in wanted), len(ids)
    if total == 0:
        raise ValueError(f"'{path}' has no rows")
    raw = RawConformations(
        id=np.empty(total, np.int64),
        z=np.empty((total, _NUM_ATOMS), np.int64),
        pos=np.empty((total, _NUM_ATOMS, 3), np.float32),
        energy=np.empty(total, np.float64),
        force=np.empty((total, _NUM_ATOMS, 3), np.float32),
    )
    start = 0
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        stop = start + len(part)
        if stop > total:
            raise ValueError(f"'{path}' grew beyond {total} rows while it was read")
        _fill(raw, slice(start, stop), part, path)
        start = stop
    if start < total:
        missing = np.setdiff1d(ids, raw.id[:start]) if ids is not None else ["?"]
        raise ValueError(f"'{path}' lacks {total - start} rows, such as number {missing[0]}")
    return raw


def _fill(raw: RawConformations, where: slice, rows: list[Row], path: Path) -> None:
    """Decodes some rows at a time: one conversion for all their arrays."""
    values = [_decode(row, path) for row in rows]
    raw.id[where] = [row[0] for row in rows]
    raw.z[where] = np.frombuffer(b"".join(row[1] for row in rows), "<i4").reshape(-1, _NUM_ATOMS)
    positions = np.frombuffer(b"".join(row[2] for row in rows), "<f8")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        raw.pos[where] = positions.reshape(-1, _NUM_ATOMS, 3)
        raw.energy[where] = [energy for energy, _ in values]
        raw.force[where] = np.array([force for _, force in values])
    if wrong := np.flatnonzero((np.sort(raw.z[where]) != COMPOSITION).any(axis=1)).tolist():
        found = raw.z[where][wrong[0]].tolist()
        raise ValueError(f"row {rows[wrong[0]][0]} of '{path}' is not C7O2H10 (got {found})")
    for name in ("pos", "energy", "force"):
        finite = np.isfinite(getattr(raw, name)[where]).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            number = rows[int(np.argmin(finite))][0]
            raise ValueError(f"{name} in row {number} of '{path}' is not finite")


def _decode(row: Row, path: Path) -> tuple[float, Any]:
    """Energy and forces ``[19, 3]`` of a row; a list or an array."""
    number, numbers, positions, pbc, pairs, data = row
    try:
        if len(numbers) != 4 * _NUM_ATOMS or len(positions) != 24 * _NUM_ATOMS:
            raise ValueError(f"{_NUM_ATOMS} atoms are needed (got {len(numbers) / 4:g})")
        if pbc:
            raise ValueError("molecules are not periodic")
        energy = json.loads(pairs)["total_energy"]
        if isinstance(data, bytes):
            forces = json.loads(data[int.from_bytes(data[:8], "little") :])["atomic_forces"]
        else:
            forces = json.loads(data)["atomic_forces"]
        if isinstance(forces, dict):
            forces = _array(forces, data)
        if not isinstance(energy, float | int) or len(forces) != _NUM_ATOMS:
            raise ValueError(f"one energy and {_NUM_ATOMS} forces are needed")
        if any(len(force) != 3 for force in forces):
            raise ValueError("a force has three components")
    except KeyError as error:
        raise ValueError(f"row {number} of '{path}' has no {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"row {number} of '{path}' is not understood: {error}") from error
    return energy, forces


def _array(reference: dict[str, Any], data: str | bytes) -> np.ndarray:
    """An array that JSON refers to."""
    shape, name, content = reference["__ndarray__"]
    kind = np.dtype(name).newbyteorder("<")
    if kind.kind != "f":
        raise ValueError(f"forces of type {name}")
    if isinstance(content, list):
        return np.array(content, kind).reshape(shape)
    if not isinstance(data, bytes):
        raise ValueError("a reference to bytes where there is only text")
    return np.frombuffer(data, kind, prod(shape), content).reshape(shape)
