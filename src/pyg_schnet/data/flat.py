r"""Molecules as flat tensors: the atoms of all of them one after the other, and checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from .species import NUM_SPECIES

#: Labels by name of the field, each with the name it has in a file; or names that stay.
LabelNames: TypeAlias = Mapping[str, str] | Iterable[str]

# PyG increments or concatenates fields with such names in ways of its own.
_RESERVED_PARTS = ("index", "batch", "edge", "bond")
_RESERVED = frozenset({"z", "cell", "pbc", "cutoff", "ptr"})
_ALLOWED = frozenset({"x", "y"})
# Labels that a file may write as whole numbers.
_FLOATS = frozenset({"energy", "force", "stress"})


@dataclass(frozen=True)
class FlatMolecules:
    r"""B molecules with N atoms together.

    Attributes:
        num_atoms: Atoms of each molecule, ``[B]``.
        atoms: Fields with one row per atom, ``[N, ...]``.
        molecules: Fields with one row per molecule, ``[B, ...]``, or B strings.
    """

    num_atoms: Tensor
    atoms: dict[str, Tensor]
    molecules: dict[str, Tensor | list[str]]

    @classmethod
    def of(
        cls,
        num_atoms: np.ndarray,
        z: np.ndarray,
        pos: np.ndarray,
        *,
        cell: np.ndarray | None = None,
        pbc: np.ndarray | None = None,
        dtype: torch.dtype = torch.float32,
        what: str = "molecule",
    ) -> "FlatMolecules":
        r"""Checks the structures of molecules.

        Args:
            num_atoms: ``[B]``.
            z: Atomic numbers ``[N]``.
            pos: Positions ``[N, 3]``.
            cell: Lattice vectors as rows, ``[B, 3, 3]``.
            pbc: Periodic directions, ``[B, 3]``; cells and these are kept if any is set.
            dtype: Type of positions and cells.
            what: What to call a molecule in errors.

        Raises:
            ValueError: If shapes do not match, a number is impossible, or a periodic direction
                has no lattice vector; names the molecule.
        """
        num_atoms = np.asarray(num_atoms).astype(np.int64)
        total = int(num_atoms.sum())
        if num_atoms.size == 0:
            raise ValueError(f"there is no {what}")
        if (num_atoms < 1).any():
            raise ValueError(f"{what} {int(np.argmax(num_atoms < 1))} has no atoms")
        for name, value, shape in (("atomic numbers", z, (total,)), ("positions", pos, (total, 3))):
            if value.shape != shape:
                raise ValueError(
                    f"{name} must have shape {list(shape)} (got {list(value.shape)}): "
                    f"{num_atoms.size} molecules have {total} atoms"
                )
        if not np.issubdtype(z.dtype, np.integer):
            raise ValueError(f"atomic numbers must be integers (got {z.dtype})")
        flat = cls(torch.from_numpy(num_atoms), {}, {})
        wrong = (z < 1) | (z >= NUM_SPECIES)
        if wrong.any():
            raise ValueError(
                f"{flat.place(int(np.argmax(wrong)), what)} has atomic number "
                f"{int(z[np.argmax(wrong)])}: they must be 1 to {NUM_SPECIES - 1}"
            )
        finite = np.isfinite(pos).all(axis=1)
        if not finite.all():
            atom = int(np.argmin(finite))
            raise ValueError(
                f"{flat.place(atom, what)} is at {pos[atom].tolist()}: positions must be finite; "
                f"leave that {what} out"
            )
        flat.atoms["z"] = torch.from_numpy(z.astype(np.int64))
        flat.atoms["pos"] = torch.from_numpy(np.ascontiguousarray(pos)).to(dtype)
        if not (finite := flat.atoms["pos"].isfinite().all(dim=1)).all():
            atom = int(finite.byte().argmin())
            raise ValueError(
                f"{flat.place(atom, what)} is at {pos[atom].tolist()}, too far away for {dtype}: "
                f"leave that {what} out"
            )
        if pbc is not None and pbc.any():
            cell = _checked_cells(cell, pbc, what)
            flat.molecules["cell"] = torch.from_numpy(cell).to(dtype)
            flat.molecules["pbc"] = torch.from_numpy(pbc.copy())
        return flat

    def place(self, atom: int, what: str = "molecule") -> str:
        """Words for an atom: of which molecule it is, and the how manieth there."""
        ends = self.num_atoms.cumsum(0)
        molecule = int(torch.searchsorted(ends, atom, right=True))
        first = int(ends[molecule - 1]) if molecule else 0
        return f"atom {atom - first} of {what} {molecule}"

    def add(self, field: str, value: np.ndarray | list[str], per_atom: bool) -> None:
        r"""Adds a field.

        Floats of molecules become float64, as total energies need; those of atoms, and stress, get
        the type of the positions.

        Raises:
            ValueError: If it has the wrong number of rows, or numbers of no usable kind.
        """
        rows = int(self.num_atoms.sum()) if per_atom else self.num_atoms.numel()
        if len(value) != rows:
            raise ValueError(
                f"'{field}' must have {rows} rows, one per {'atom' if per_atom else 'molecule'} "
                f"(got {len(value)})"
            )
        if isinstance(value, list) or value.dtype.kind in "SU":
            if per_atom:
                raise ValueError(f"'{field}' must hold numbers, as all values of atoms (got text)")
            self.molecules[field] = _strings(value)
            return
        if value.dtype.kind not in "fiub":
            raise ValueError(f"'{field}' must hold numbers or strings (got {value.dtype})")
        as_positions = per_atom or field == "stress"
        floats = self.atoms["pos"].dtype if as_positions else torch.float64
        is_float = value.dtype.kind == "f" or field in _FLOATS
        tensor = torch.from_numpy(np.array(value)).to(floats if is_float else torch.long)
        (self.atoms if per_atom else self.molecules)[field] = tensor


def label_names(labels: LabelNames) -> dict[str, str]:
    """Names of fields, each with the name in the file.

    Raises:
        TypeError: If these are no strings.
        ValueError: If a field has a name that means something else in PyG.

    >>> label_names(["homo"])
    {'homo': 'homo'}
    """
    if isinstance(labels, str):
        raise TypeError(f"'labels' must be a list or a dictionary: use labels=['{labels}']")
    names = dict(labels) if isinstance(labels, Mapping) else {name: name for name in labels}
    for field, key in names.items():
        if not isinstance(field, str) or not isinstance(key, str):
            raise TypeError(f"'labels' must hold names (got {field!r}: {key!r})")
        reserved = field in _RESERVED or any(part in field for part in _RESERVED_PARTS)
        if reserved or (hasattr(Data, field) and field not in _ALLOWED):
            raise ValueError(
                f"a field cannot be called '{field}', which means something else in PyG: give it "
                f"another name by labels={{'name': '{key}'}}"
            )
    return names


def _checked_cells(cell: np.ndarray | None, pbc: np.ndarray, what: str) -> np.ndarray:
    """Cells of periodic molecules, zero for the others."""
    if cell is None or cell.shape != (len(pbc), 3, 3) or pbc.shape != (len(pbc), 3):
        raise ValueError(
            f"periodic molecules need cells [{len(pbc)}, 3, 3] and pbc [{len(pbc)}, 3] (got "
            f"{None if cell is None else list(cell.shape)} and {list(pbc.shape)})"
        )
    periodic = np.logical_or.reduce(pbc, axis=1)
    cell = np.where(periodic[:, None, None], cell, 0.0)
    for i in np.flatnonzero(periodic):
        # NaN has no rank; zero rows of directions that are not periodic do not count.
        vectors = cell[i][pbc[i]]
        if not np.isfinite(cell[i]).all() or np.linalg.matrix_rank(vectors) < len(vectors):
            raise ValueError(
                f"{what} {i} is periodic along {pbc[i].tolist()}, but its cell is "
                f"{cell[i].tolist()}: give it lattice vectors, or set pbc to False"
            )
    return cell


def _strings(value: np.ndarray | list[str]) -> list[str]:
    if isinstance(value, list):
        return value
    return (np.char.decode(value) if value.dtype.kind == "S" else value).tolist()
