r"""Molecules to predict, read from files, with those that cannot be read named."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch_geometric.data import Data
from tqdm import tqdm

from ..data.ase import read_frames
from ..data.flat import FlatMolecules
from ..data.smiles import from_smiles
from ..datasets.arrays import read_arrays
from ..datasets.npz import open_npz
from ..datasets.own import read_by_ase
from ..storage import CorruptFileError
from .flags import UsageError

T = TypeVar("T")
# A file of which the first so many molecules cannot be read is not what it seems.
_MANY = 1_000


@dataclass
class Failures:
    """Molecules for which something failed.

    Attributes:
        strict: Whether the first one is an error.
        reasons: Why, by number in the file.
    """

    strict: bool = False
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, name: str, reason: object) -> None:
        """Notes, and says at once, that a molecule is left out; of its conformers only the first.

        Raises:
            ValueError: If nothing may fail.
        """
        message = f"{number} ({name}): {reason}" if name else f"{number}: {reason}"
        if number in self.reasons:
            return
        if self.strict:
            raise ValueError(f"molecule {message}")
        self.reasons[number] = str(reason)
        tqdm.write(f"skipped molecule {message}", file=sys.stderr)


@dataclass(frozen=True)
class Structure:
    """A molecule of a file.

    Attributes:
        number: Its place in the file, from 0.
        name: Its name there, if it has one.
        data: Atoms and positions.
        line: Its line in the file, from 1, where that tells more than the number.
    """

    number: int
    name: str
    data: Data
    line: int | None = None

    @property
    def label(self) -> str:
        """Name and line, as far as there are any, for messages."""
        return _label(self.name, self.line)

    @property
    def described(self) -> str:
        """Number and label, for messages."""
        return f"{self.number} ({self.label})" if self.label else f"{self.number}"


@dataclass(frozen=True)
class Coordinates:
    """How SMILES get coordinates, see :func:`pyg_schnet.data.from_smiles`.

    Attributes:
        num_conformers: How many conformers of each.
        seed: Seed of their coordinates.
        optimize: Force field that relaxes them, or ``None``.
    """

    num_conformers: int = 1
    seed: int = 0
    optimize: str | None = "mmff"


def read_structures(
    path: str | Path, failures: Failures, coordinates: Coordinates | None = None
) -> list[Structure]:
    """Reads the molecules of a file.

    Args:
        path: ``.smi`` (a SMILES and maybe a name on each line), ``.sdf``, ``.npz``, or what ASE
            reads.
        failures: Takes those that cannot be read.
        coordinates: How SMILES get theirs.

    Returns:
        The structures. Conformers of a SMILES follow each other, with the same number.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    kinds: dict[str, Callable[[Path, Failures], list[Structure]]] = {
        ".smi": lambda file, failed: _read_smiles(file, failed, coordinates or Coordinates()),
        ".sdf": _read_sdf,
        ".npz": _read_npz,
    }
    try:
        return kinds.get(path.suffix.lower(), _read_frames)(path, failures)
    except CorruptFileError:
        raise  # it names the file
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error


def salvage(
    numbers: Sequence[int],
    work: Callable[[Sequence[int]], T],
    fail: Callable[[int, Exception], None],
) -> Iterator[tuple[Sequence[int], T]]:
    """Does work on all molecules at once, and on ever smaller parts where that fails.

    Args:
        numbers: Of the molecules.
        work: What to do with some of them; raises ``ValueError`` if one is wrong.
        fail: Takes the number of one that is wrong, and the error.

    Returns:
        Parts, and what the work gave for each.

    >>> def work(numbers):
    ...     if 2 in numbers:
    ...         raise ValueError("two")
    ...     return sum(numbers)
    >>> list(salvage(range(4), work, lambda number, error: print(number, error)))
    2 two
    [(range(0, 2), 1), (range(3, 4), 3)]
    """
    try:
        result = work(numbers)
    except ValueError as error:
        if len(numbers) == 1:
            fail(numbers[0], error)
            return
        middle = len(numbers) // 2
        yield from salvage(numbers[:middle], work, fail)
        yield from salvage(numbers[middle:], work, fail)
    else:
        yield numbers, result


def _read_smiles(path: Path, failures: Failures, coordinates: Coordinates) -> list[Structure]:
    text = path.read_text(encoding="utf-8")
    lines = [(i, line.split(maxsplit=1)) for i, line in enumerate(text.splitlines(), start=1)]
    lines = [(i, words) for i, words in lines if words and not words[0].startswith("#")]
    if lines and lines[0][1][0].lower() == "smiles":
        del lines[0]
    structures = []
    for number, (line, (smiles, *names)) in enumerate(_shown(lines, path)):
        try:
            made = from_smiles(
                smiles,
                num_conformers=coordinates.num_conformers,
                seed=coordinates.seed,
                optimize=coordinates.optimize,
            )
        except ValueError as error:
            failures.add(number, _label(" ".join(names), line), error)
            continue
        conformers = [made] if isinstance(made, Data) else made
        if int(conformers[0].charge) != 0 or int(conformers[0].multiplicity) != 1:
            tqdm.write(
                f"warning: molecule {number} ({smiles}) is an ion or radical, which a SchNet "
                "cannot tell from the neutral molecule of these atoms",
                file=sys.stderr,
            )
        for data in conformers:
            del data.charge, data.multiplicity
            structures.append(Structure(number, " ".join(names) or smiles, data, line))
    return structures


def _label(name: str, line: int | None) -> str:
    return ", ".join(filter(None, (name, "" if line is None else f"line {line}")))


def _read_sdf(path: Path, failures: Failures) -> list[Structure]:
    from rdkit.rdBase import BlockLogs

    # RDKit's own reader of such files stops at the first record that is cut short.
    records = re.split(r"^\$\$\$\$.*\n?", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not records[-1].strip():
        del records[-1]
    structures = []
    with BlockLogs():  # what RDKit would print is in the errors
        for number, record in enumerate(_shown(records, path)):
            name = record.partition("\n")[0].strip()
            try:
                structures.append(Structure(number, name, _from_record(record)))
            except ValueError as error:
                failures.add(number, name, error)
    return structures


def _from_record(record: str) -> Data:
    from rdkit.Chem import MolFromMolBlock

    molecule = MolFromMolBlock(record, sanitize=False, removeHs=False)
    if molecule is None:
        raise ValueError("RDKit cannot read it")
    if molecule.GetNumConformers() == 0 or not molecule.GetConformer().Is3D():
        raise ValueError("it has no coordinates in three dimensions")
    molecule.UpdatePropertyCache(strict=False)
    missing = sum(atom.GetTotalNumHs() for atom in molecule.GetAtoms())
    if missing > 0:
        raise ValueError(f"{missing} of its hydrogens have no coordinates: write them to the file")
    flat = FlatMolecules.of(
        np.array([molecule.GetNumAtoms()]),
        np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()]),
        np.array(molecule.GetConformer().GetPositions()),
    )
    return Data(**flat.atoms)


def _read_npz(path: Path, failures: Failures) -> list[Structure]:
    with open_npz(path) as file:
        arrays = dict(file)
    unit = str(np.asarray(arrays.get("r_unit", "Ang")).astype(str))
    if unit != "Ang":
        raise ValueError(f"positions must be in angstrom (got {unit}): convert them")
    # Without any of these there is one molecule, which fails with a list of what there is.
    sized = ("n_atoms", "num_atoms", "R", "coords", "pos", "positions", "coordinates")
    count = next((len(np.atleast_1d(arrays[name])) for name in sized if name in arrays), 1)
    names = np.atleast_1d(arrays.get("names", "")).astype(str).tolist()
    names = names if len(names) == count else [""] * count
    return _salvaged(names, lambda numbers: read_arrays(arrays, [], np.asarray(numbers)), failures)


def _read_frames(path: Path, failures: Failures) -> list[Structure]:
    frames = read_by_ase(path)
    if not frames:
        raise ValueError("there is no molecule in it")
    names = [str(atoms.info.get("name", "")) for atoms in frames]
    return _salvaged(names, lambda numbers: read_frames([frames[i] for i in numbers], []), failures)


def _salvaged(
    names: Sequence[str], read: Callable[[Sequence[int]], FlatMolecules], failures: Failures
) -> list[Structure]:
    def fail(number: int, error: Exception) -> None:
        reason = re.sub(r" of (frame|molecule) 0\b", "", str(error))  # the only one of its part
        failures.add(number, names[number], re.sub(r"\b(frame|molecule) 0\b", "it", reason))
        if number + 1 == len(failures.reasons) == _MANY:
            raise ValueError(f"none of the first {_MANY:,} molecules makes sense")

    structures = []
    for numbers, flat in salvage(range(len(names)), read, fail):
        structures += [
            Structure(number, names[number], data) for number, data in zip(numbers, _split(flat))
        ]
    if any("cell" in structure.data for structure in structures):
        for structure in structures:  # of other parts: a batch has cells in all molecules or none
            if "cell" not in structure.data:
                structure.data.cell = torch.zeros(1, 3, 3)
                structure.data.pbc = torch.zeros(1, 3, dtype=torch.bool)
    return structures


def _split(flat: FlatMolecules) -> Iterator[Data]:
    """Molecules one by one."""
    sizes = flat.num_atoms.tolist()
    atoms = {name: value.split(sizes) for name, value in flat.atoms.items()}
    for i in range(len(sizes)):
        whole = {
            name: value[i : i + 1] if isinstance(value, torch.Tensor) else value[i]
            for name, value in flat.molecules.items()
        }
        yield Data(**{name: parts[i] for name, parts in atoms.items()}, **whole)


def _shown(items: Any, path: Path) -> Any:
    """The items, with progress on a terminal."""
    return tqdm(items, desc=path.name, unit="molecule", disable=not sys.stderr.isatty())


def check_suffix(path: str | Path, known: Sequence[str]) -> str:
    """The ending of a file, which says its format.

    Raises:
        UsageError: If it is none of those known.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise UsageError(f"'{path}' must end in {', '.join(known)} (got '{suffix}')")
    return suffix
