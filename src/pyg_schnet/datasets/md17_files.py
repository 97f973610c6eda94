r"""The files of MD17: trajectories in NumPy's npz format, and lists of frames in text files.

======================= ================== =================== ==============================
array                   original, CCSD     revised             shape
======================= ================== =================== ==============================
atomic numbers          ``z``              ``nuclear_charges`` ``[n]``
positions, angstrom     ``R``              ``coords``          ``[M, n, 3]``
energy, kcal/mol        ``E``              ``energies``        ``[M]`` or ``[M, 1]``
forces, kcal/mol/Ang    ``F``              ``forces``          ``[M, n, 3]``
number of the frame     (``frame``)        ``old_indices``     ``[M]``
======================= ================== =================== ==============================
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .npz import open_npz

# How often C, H, N and O occur; a file with other atoms is that of another molecule.
COMPOSITIONS = {
    "aspirin": (9, 8, 0, 4),
    "azobenzene": (12, 10, 2, 0),
    "benzene": (6, 6, 0, 0),
    "ethanol": (2, 6, 0, 1),
    "malonaldehyde": (3, 4, 0, 2),
    "naphthalene": (10, 8, 0, 0),
    "paracetamol": (8, 9, 1, 2),
    "salicylic acid": (7, 6, 0, 3),
    "toluene": (7, 8, 0, 0),
    "uracil": (4, 4, 2, 2),
}
_ELEMENTS = (6, 1, 7, 8)
_KEYS = ("z", "R", "E", "F", "frame")
_REVISED_KEYS = ("nuclear_charges", "coords", "energies", "forces", "old_indices")


@dataclass(frozen=True)
class RawFrames:
    r"""M frames of a molecule with n atoms, in the units of the files.

    Attributes:
        z: Atomic numbers, ``[n]``.
        pos: Positions in angstrom, ``[M, n, 3]`` float32.
        energy: In kcal/mol, ``[M]`` float64.
        force: In kcal/mol/Ang, ``[M, n, 3]`` float32.
        frame: Number in the original trajectory, from 0, ``[M]``.
    """

    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    force: np.ndarray
    frame: np.ndarray


def read_frames(path: Path, molecule: str, rows: np.ndarray | None = None) -> RawFrames:
    r"""Reads and checks a trajectory, one array at a time.

    Args:
        path: The npz file, original or revised.
        molecule: What it must be, a key of ``COMPOSITIONS``.
        rows: Frames to read, in this order, ``[M]``; all if ``None``.

    Raises:
        ValueError: If the file is damaged, or is not the trajectory of that molecule.
    """
    with open_npz(path) as arrays:
        keys = _REVISED_KEYS if "coords" in arrays else _KEYS
        for key in keys[:4]:
            if key not in arrays:
                raise ValueError(f"'{path}' has no array '{key}' (got {sorted(arrays)})")
        z = arrays[keys[0]]
        _check_molecule(path, z, molecule)

        def read(key: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            return _read(arrays[key], f"'{key}' in '{path}'", shape, dtype, rows)

        num_frames = len(np.atleast_1d(arrays[keys[2]]))
        _check_rows(path, rows, num_frames)
        vectors = (num_frames, len(z), 3)
        if keys[4] in arrays:
            frame = read(keys[4], (num_frames,), np.int64)
        else:
            frame = np.arange(num_frames) if rows is None else rows
        return RawFrames(
            z=z.astype(np.int64),
            pos=read(keys[1], vectors, np.float32),
            energy=read(keys[2], (num_frames,), np.float64),
            force=read(keys[3], vectors, np.float32),
            frame=frame,
        )


def has_splits(path: Path) -> bool:
    """Whether a trajectory says itself which frames belong to the official splits."""
    with open_npz(path) as arrays:
        return "split_member" in arrays


def read_split(path: Path, folder: Path, split: int, train: bool) -> np.ndarray:
    r"""The frames of an official split of a revised trajectory.

    They are listed in text files beside the trajectories, one number a line, from 0. An array
    ``split_member`` ``[M, 10]`` in the trajectory itself, with ``split_names``, does as well.

    Args:
        path: The npz file.
        folder: Folder of the lists.
        split: Number of the split, 1 to 5.
        train: The frames to train on, or those to test with.

    Returns:
        Rows of the trajectory, ``[M]`` int64, in the order of the list, or of the trajectory.

    Raises:
        ValueError: If the list is no list of different frames.
    """
    part = "train" if train else "test"
    if has_splits(path):
        with open_npz(path) as arrays:
            names, member = arrays["split_names"].tolist(), arrays["split_member"]
        if f"{part}_{split:02d}" not in names:
            raise ValueError(f"'{path}' has no split '{part}_{split:02d}' (got {names})")
        return np.flatnonzero(member[:, names.index(f"{part}_{split:02d}")])
    file = folder / split_file(split, train)
    lines = file.read_text(encoding="utf-8", errors="replace").split()
    wrong = [line for line in lines if not line.isdecimal()]
    rows = np.array([int(line) for line in lines if line.isdecimal()], dtype=np.int64)
    if wrong or len(rows) == 0 or len(np.unique(rows)) < len(rows):
        example = f", among them '{wrong[0]}'" if wrong else ""
        raise ValueError(
            f"'{file}' must list different frames, one number a line "
            f"(got {len(lines)} lines{example}, {len(np.unique(rows))} different numbers)"
        )
    return rows


def split_file(split: int, train: bool) -> str:
    """Name of the official list of frames."""
    return f"index_{'train' if train else 'test'}_{split:02d}.csv"


def _read(
    array: np.ndarray, what: str, shape: tuple[int, ...], dtype: type, rows: np.ndarray | None
) -> np.ndarray:
    # Energies come as [M] or [M, 1].
    if array.shape not in (shape, (*shape, 1)):
        raise ValueError(f"{what} must have the shape {list(shape)} (got {list(array.shape)})")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must hold numbers (got {array.dtype})")
    array = array.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        array = (array if rows is None else array[rows]).astype(dtype, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
        raise ValueError(f"{what} is not finite in frame {row if rows is None else rows[row]}")
    return array


def _check_molecule(path: Path, z: np.ndarray, molecule: str) -> None:
    found = tuple(int((z == element).sum()) for element in _ELEMENTS)
    if found != COMPOSITIONS[molecule] or sum(found) != z.size or z.ndim != 1:
        wanted = dict(zip(_ELEMENTS, COMPOSITIONS[molecule]))
        raise ValueError(
            f"'{path}' is not {molecule}, with as many atoms by atomic number: {wanted} "
            f"(got the atomic numbers {z.tolist()})"
        )


def _check_rows(path: Path, rows: np.ndarray | None, num_frames: int) -> None:
    if num_frames == 0:
        raise ValueError(f"'{path}' has no frames")
    if rows is not None and rows.max() >= num_frames:
        raise ValueError(
            f"'{path}' has {num_frames} frames, but the list names number {rows.max()}, from 0"
        )
