r"""ISO17: isomers of C7O2H10, for unknown conformations and unknown molecules."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch_geometric.data import Data

from .archives import check_archive, extract
from .collated import Slices, collate
from .download import RemoteFile
from .iso17_db import RawConformations, read_database, read_ids
from .molecules import InMemoryMolecules, check_cutoff, check_energy_unit

# Fold: its database, and the list of its rows if it is a part of that.
_FOLDS: dict[str, tuple[str, str | None]] = {
    "reference": ("reference.db", None),
    "train": ("reference.db", "train_ids.txt"),
    "validation": ("reference.db", "validation_ids.txt"),
    "reference_eq": ("reference_eq.db", None),
    "test_within": ("test_within.db", None),
    "test_other": ("test_other.db", None),
    "test_eq": ("test_eq.db", None),
}
_UNITS = {"pos": "Ang", "energy": "eV", "force": "eV/Ang"}


class ISO17(InMemoryMolecules):
    r"""ISO17, from `SchNet: A continuous-filter convolutional neural network for modeling quantum
    interactions <https://arxiv.org/abs/1706.08566>`_ (Schütt et al., NeurIPS 2017).

    Trajectories of 5,000 steps (PBE+TS) of 129 isomers with the formula C7O2H10, split so that
    nothing leaks:

    ================= =========================================================================
    ``"reference"``   80 % of the steps of 80 % of the molecules
    ``"train"``       the part of it to train on
    ``"validation"``  the rest of it, to stop training and to choose models
    ``"test_within"`` the other 20 % of the steps of those molecules: known molecules, unknown
                      conformations
    ``"test_other"``  all steps of the other 20 % of the molecules: both unknown
    ``"reference_eq"``, ``"test_eq"``  the equilibrium structures of the molecules of the reference,
                      and of the others
    ================= =========================================================================

    Each conformation has

    - ``z`` ``[19]`` int64 and ``pos`` ``[19, 3]`` float32, in angstrom;
    - ``energy`` ``[1]`` float64, in eV, and ``force`` ``[19, 3]`` float32, in eV/Ang;
    - ``idx`` ``[1]`` int64, its row in the database counted from 0;
    - with ``cutoff``: ``edge_index``, ``edge_weight`` and ``cutoff`` as for
      :class:`~pyg_schnet.datasets.QM9`.

    All have the same composition: atom references cannot be told from a constant.

    Args:
        root: Folder of the data set, common to all folds.
        fold: Which part.
        units: Unit of energy to convert to, such as ``"kcal/mol"``; forces follow.
        cutoff: Radius in angstrom of the graphs that the molecules come with (``math.inf``: all
            pairs); without it they have no edges. Computed when loading, not saved.
        transform: Applied to a conformation at each access.
        pre_transform: Applied to each conformation once, before the data set is saved.
        pre_filter: Which conformations to keep.
        force_reload: Process the raw files again.

    Raises:
        RuntimeError: If a file cannot be downloaded; says what to do by hand.
        ValueError: If there is no such fold, or if a raw file is damaged or not the one expected.
    """

    folds: ClassVar[tuple[str, ...]] = tuple(_FOLDS)
    archive: ClassVar[RemoteFile] = RemoteFile(
        name="iso17.tar.gz",
        urls=(
            "http://quantum-machine.org/datasets/iso17.tar.gz",
            "http://www.quantum-machine.org/datasets/iso17.tar.gz",
        ),
    )

    def __init__(
        self,
        root: str | Path,
        fold: str,
        *,
        units: str | None = None,
        cutoff: float | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        force_reload: bool = False,
    ):
        check_cutoff(cutoff)
        check_energy_unit(units)
        if fold not in _FOLDS:
            raise ValueError(f"unknown fold '{fold}': ISO17 has {', '.join(_FOLDS)}")
        self.fold = fold
        super().__init__(str(root), transform, pre_transform, pre_filter, force_reload=force_reload)
        self._hold(*self._load_processed(), _UNITS, energy=units, cutoff=cutoff)

    @property
    def raw_file_names(self) -> list[str]:
        """The database, and the list of rows of ``train`` and ``validation``."""
        return [f"iso17/{name}" for name in _FOLDS[self.fold] if name is not None]

    @property
    def processed_file_names(self) -> str:
        """The conformations, collated; the number changes whenever the content does."""
        return f"{self.fold}_v1.pt"

    def download(self) -> None:
        """Fetches the archive, if need be, and takes out of it what is missing."""
        if self._is_processed:
            return
        missing = [path for path in map(Path, self.raw_paths) if not path.exists()]
        self._fetch(self.archive, check_archive)
        self._read_raw(self.archive, lambda archive: extract(archive, missing))

    def process(self) -> None:
        """Turns the database into one file of collated conformations."""
        database, *lists = map(Path, self.raw_paths)
        ids = self._read_raw(self.archive, read_ids, lists[0]) if lists else None
        raw = self._read_raw(self.archive, lambda path: read_database(path, ids), database)
        self._save_processed(*_collate(raw))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, fold='{self.fold}')"


def _collate(raw: RawConformations) -> tuple[Data, Slices]:
    size, num_atoms = raw.z.shape
    return collate(
        torch.full((size,), num_atoms),
        {
            "z": torch.from_numpy(raw.z).view(-1),
            "pos": torch.from_numpy(raw.pos).view(-1, 3),
            "force": torch.from_numpy(raw.force).view(-1, 3),
        },
        {"energy": torch.from_numpy(raw.energy), "idx": torch.from_numpy(raw.id) - 1},
    )
