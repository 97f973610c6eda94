r"""Arrays of molecules as they come in ``.npz`` files: which layouts there are, and how to tell."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.flat import FlatMolecules, LabelNames, label_names

# Names of the same thing in the files of different authors.
_NAMES = {
    "n": ("n_atoms", "num_atoms"),
    "z": ("z", "Z", "nuclear_charges", "atomic_numbers", "numbers"),
    "pos": ("R", "coords", "pos", "positions", "coordinates"),
    "energy": ("E", "energies", "energy"),
    "force": ("F", "forces", "force"),
}


def read_arrays(
    arrays: Mapping[str, Any],
    labels: LabelNames | None = None,
    keep: Any = None,
) -> FlatMolecules:
    r"""Reads molecules from named arrays; see ``MoleculeDataset.from_arrays``.

    Args:
        arrays: Atomic numbers, positions and labels by name.
        labels: Fields of the result, each with its name in ``arrays``.
        keep: Mask ``[B]`` or numbers ``[M]`` of the molecules to read.

    Raises:
        ValueError: If an array is missing or shapes do not match; lists what there is.
    """
    if "lattice" in arrays:
        raise ValueError(
            "'lattice' is ambiguous, as some programs keep lattice vectors in its columns: give "
            "them as rows in 'cell', [3, 3] or [B, 3, 3]"
        )
    used = {what: _name_of(what, arrays) for what in _NAMES}
    for what in ("z", "pos"):
        if used[what] is None:
            raise ValueError(
                f"no {'atomic numbers' if what == 'z' else 'positions'}: one of the arrays must be "
                f"called {', '.join(_NAMES[what])}; there are {sorted(arrays)}"
            )
    if labels is None:
        names = {field: key for field in ("energy", "force") if (key := used[field]) is not None}
    else:
        names = label_names(labels)
    if "smiles" in arrays:
        names = {**names, "smiles": "smiles"}
    if missing := [key for key in names.values() if key not in arrays]:
        raise ValueError(f"there is no array '{missing[0]}'; there are {sorted(arrays)}")
    z, pos = (np.asarray(arrays[str(used[what])]) for what in ("z", "pos"))
    num_atoms = None if used["n"] is None else np.asarray(arrays[used["n"]])
    layout = _Layout(num_atoms, z, pos, keep)
    cell, pbc = _periodicity(arrays, layout)
    flat = FlatMolecules.of(
        layout.num_atoms[layout.keep],
        layout.of_atoms("atomic numbers", layout.z),
        layout.of_atoms("positions", pos),
        cell=cell,
        pbc=pbc,
    )
    for field, key in names.items():
        value = np.asarray(arrays[key])
        per_atom = layout.is_per_atom(field, value)
        if per_atom and field in ("energy", "stress"):
            raise ValueError(
                f"'{key}' has one row per atom (got {list(value.shape)}), but '{field}' belongs to "
                "molecules: give it another name by 'labels'"
            )
        if field == "force":
            value = layout.of_atoms(key, value)
            if value.shape[1:] != (3,):
                raise ValueError(f"'{key}' must have three components (got {list(value.shape)})")
        elif per_atom:
            value = layout.of_atoms(key, value)
        else:
            value = layout.of_molecules(key, value)
            if field == "energy" and value.size == len(value):
                value = value.reshape(-1)
        if field == "stress" and value.shape[1:] != (3, 3):
            raise ValueError(
                f"'{key}' must have shape {[len(value), 3, 3]} (got {list(value.shape)})"
            )
        if field == "energy" and value.ndim != 1:
            raise ValueError(f"'{key}' must be one energy per molecule (got {list(value.shape)})")
        flat.add(field, value, per_atom)
    return flat


def kept(keep: Any, size: int) -> np.ndarray:
    """Numbers of the molecules to keep, of a mask ``[B]`` or of numbers ``[M]``."""
    if keep is None:
        return np.arange(size)
    keep = np.asarray(keep)
    if keep.dtype == bool and keep.shape == (size,):
        keep = np.flatnonzero(keep)
    elif keep.dtype.kind not in "iu" or keep.ndim != 1:
        raise ValueError(
            f"'keep' must be a mask of {size} molecules or a list of their numbers (got "
            f"{keep.dtype} of shape {list(keep.shape)})"
        )
    if keep.size == 0:
        raise ValueError("'keep' leaves no molecule")
    if keep.min() < 0 or keep.max() >= size:
        raise ValueError(
            f"'keep' must hold numbers from 0 to {size - 1} (got {keep.min()} to {keep.max()})"
        )
    return keep.astype(np.int64)


class _Layout:
    r"""How B molecules lie in arrays: ragged, or with an axis of molecules and one of atoms.

    ====== ============ ============== =============================================
    layout ``z``        ``pos``        atoms per molecule
    ====== ============ ============== =============================================
    ragged ``[N]``      ``[N, 3]``     ``n_atoms`` ``[B]``
    frames ``[n]``      ``[B, n, 3]``  n, all of the same composition
    padded ``[B, n]``   ``[B, n, 3]``  as many as there are nonzero atomic numbers
    ====== ============ ============== =============================================
    """

    def __init__(
        self,
        num_atoms: np.ndarray | None,
        z: np.ndarray,
        pos: np.ndarray,
        keep: Any,
    ):
        if object in (z.dtype, pos.dtype):
            raise ValueError(
                "arrays of Python objects are not understood: concatenate the arrays of all "
                "molecules, and give their numbers of atoms in 'n_atoms'"
            )
        self.ragged = pos.ndim == 2
        if self.ragged:
            if num_atoms is None:
                raise ValueError(
                    f"positions of shape {list(pos.shape)} need the number of atoms of each "
                    f"molecule, in an array called {' or '.join(_NAMES['n'])}"
                )
            if num_atoms.ndim != 1 or not np.issubdtype(num_atoms.dtype, np.integer):
                raise ValueError(
                    "the numbers of atoms must be integers of shape [B] (got "
                    f"{num_atoms.dtype} of shape {list(num_atoms.shape)})"
                )
            if (num_atoms < 1).any():
                raise ValueError(f"molecule {int(np.argmax(num_atoms < 1))} has no atoms")
            self.num_atoms = num_atoms.astype(np.int64)
            self.present = None
        else:
            if pos.ndim != 3 or pos.shape[2] != 3 or z.shape not in (pos.shape[:2], pos.shape[1:2]):
                raise ValueError(
                    "positions [B, n, 3] go with atomic numbers [n] or [B, n], positions [N, 3] "
                    f"with [N] (got positions {list(pos.shape)} and atomic numbers "
                    f"{list(z.shape)})"
                )
            z = np.broadcast_to(z, pos.shape[:2])
            self.present = z != 0
            self.num_atoms = self.present.sum(axis=1)
        self.z = z
        self.keep = kept(keep, len(self.num_atoms))
        self.rows = self._rows_of_atoms() if self.ragged else None

    def _rows_of_atoms(self) -> np.ndarray:
        """Rows of the atoms of the molecules to keep, ``[N]``."""
        counts = self.num_atoms[self.keep]
        old = (self.num_atoms.cumsum() - self.num_atoms)[self.keep]
        new = counts.cumsum() - counts
        return np.arange(counts.sum()) + np.repeat(old - new, counts)

    def is_per_atom(self, field: str, value: np.ndarray) -> bool:
        """Whether an array has one row per atom."""
        if field == "force":
            return True
        total = self.num_atoms.sum()
        return self.ragged and len(self.num_atoms) != total and value.shape[:1] == (total,)

    def of_atoms(self, name: str, value: np.ndarray) -> np.ndarray:
        """The rows ``[N, ...]`` of an array with values of atoms."""
        if self.rows is not None:
            total = int(self.num_atoms.sum())
            if value.shape[:1] != (total,):
                raise ValueError(
                    f"'{name}' must have {total} rows, as 'n_atoms' adds up to (got shape "
                    f"{list(value.shape)})"
                )
            return value[self.rows]
        assert self.present is not None  # for mypy: not ragged
        if value.shape[:2] != self.present.shape:
            raise ValueError(
                f"'{name}' must have shape {[*self.present.shape, 3]} (got {list(value.shape)})"
            )
        return value[self.keep][self.present[self.keep]]

    def of_molecules(self, name: str, value: np.ndarray) -> np.ndarray:
        """The rows ``[M, ...]`` of an array with values of molecules."""
        if value.shape[:1] != self.num_atoms.shape:
            raise ValueError(
                f"'{name}' must have {len(self.num_atoms)} rows, one per molecule (got shape "
                f"{list(value.shape)})"
            )
        return value[self.keep]


def _periodicity(
    arrays: Mapping[str, Any], layout: _Layout
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Cells and periodic directions, one per molecule, of either one or B of them."""
    if "cell" not in arrays:
        if "pbc" in arrays and np.asarray(arrays["pbc"]).any():
            raise ValueError("'pbc' is set, but there is no array 'cell'")
        return None, None
    size = len(layout.num_atoms)
    cell, pbc = np.asarray(arrays["cell"]), np.asarray(arrays.get("pbc", True))
    if pbc.dtype.kind not in "biu":
        raise ValueError(f"'pbc' must hold truth values (got {pbc.dtype})")
    if cell.shape not in ((3, 3), (size, 3, 3)) or pbc.shape not in ((), (3,), (size, 3)):
        raise ValueError(
            f"'cell' must have shape [3, 3] or [{size}, 3, 3], and 'pbc' [3] or [{size}, 3] (got "
            f"{list(cell.shape)} and {list(pbc.shape)})"
        )
    cell = np.broadcast_to(cell, (size, 3, 3))[layout.keep].astype(np.float64)
    return cell, np.broadcast_to(pbc, (size, 3))[layout.keep].astype(bool)


def _name_of(what: str, arrays: Mapping[str, Any]) -> str | None:
    present = [name for name in _NAMES[what] if name in arrays]
    if what in ("z", "pos") and len(present) > 1:
        raise ValueError(f"the arrays {present} are ambiguous: leave all but one of them out")
    return present[0] if present else None
