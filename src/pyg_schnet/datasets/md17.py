r"""MD17: trajectories of small molecules."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch_geometric.data import Data

from .archives import check_archive, extract
from .collated import Slices, collate
from .download import RemoteFile
from .md17_files import (
    COMPOSITIONS,
    RawFrames,
    has_splits,
    read_frames,
    read_split,
    split_file,
)
from .molecules import InMemoryMolecules, check_cutoff, check_energy_unit
from .npz import check_npz

UNITS = {"pos": "Ang", "energy": "kcal/mol", "force": "kcal/mol/Ang"}


class MD17(InMemoryMolecules):
    r"""Energies and forces along trajectories, from `Machine learning of accurate energy-conserving
    molecular force fields <https://doi.org/10.1126/sciadv.1603015>`_ (Chmiela et al., Sci. Adv. 3,
    e1603015, 2017) and its successors.

    Names are those of :class:`torch_geometric.datasets.MD17`:

    =========================== ==================================================== ============
    name                        molecules                                            frames
    =========================== ==================================================== ============
    ``"ethanol"``               aspirin, azobenzene, benzene, ethanol, malonaldehyde, 99,999 to
                                naphthalene, paracetamol, salicylic acid, toluene,   993,237
                                uracil: the original labels (PBE+TS). ``"benzene"``
                                is that of 2017, which the SchNet paper uses
    ``"revised ethanol"``       the same ten: 100,000 of the frames (azobenzene      100,000
                                99,988) with labels of less noise (PBE/def2-SVP,
                                `Christensen and von Lilienfeld, 2020
                                <https://doi.org/10.1088/2632-2153/abba6f>`_),
                                five official splits of 1,000 and 1,000
    ``"ethanol CCSD(T)"``       benzene, malonaldehyde, ethanol, toluene;            1,500 to
                                ``"aspirin CCSD"``; fixed sets to train and test     2,000
    ``"benzene FHI-aims"``      benzene of 2018                                      49,863
    =========================== ==================================================== ============

    Each frame with n atoms has

    - ``z`` ``[n]`` int64 and ``pos`` ``[n, 3]`` float32, in angstrom;
    - ``energy`` ``[1]`` float64, in kcal/mol: float32 would be 0.03 kcal/mol off for aspirin;
    - ``force`` ``[n, 3]`` float32, in kcal/mol/Ang: rounded by less than 1e-5, a thousandth of the
      noise of the best of these labels, in half the memory;
    - ``frame`` ``[1]`` int64: its number in the original trajectory, from 0 (in its own file for
      CCSD and FHI-aims);
    - with ``cutoff``: ``edge_index``, ``edge_weight`` and ``cutoff`` as for
      :class:`~pyg_schnet.datasets.QM9`.

    Frames keep the order of the file, which the original data have in time; some of those come
    more than once.

    .. warning::

        Frames that follow each other are nearly the same. A random split of a whole trajectory
        puts neighbours of every test frame into the training set, the more the larger that is:
        its errors say how well a model interpolates, not how well it predicts other
        conformations. Train on 1,000 frames at most, use the official splits, or split by time:
        ``dataset[:400_000]`` and ``dataset[500_000:]``.

    Args:
        root: Folder of the data sets, common to all names.
        name: Which trajectory.
        split: Number of the official split of a revised trajectory, 1 to 5.
        train: Frames to train on, or (``False``) to test with: of ``split``, and of the CCSD sets.
        units: Unit of energy to convert to, such as ``"eV"``; forces follow, in eV/Ang.
        cutoff: Radius in angstrom of the graphs that the frames come with (``math.inf``: all
            pairs); without it they have no edges. Computed when loading, not saved.
        transform: Applied to a frame at each access.
        pre_transform: Applied to each frame once, before the data set is saved.
        pre_filter: Which frames to keep.
        force_reload: Process the raw files again.

    Raises:
        RuntimeError: If a file cannot be downloaded; says what to do by hand.
        TypeError: If ``train`` is not a truth value.
        ValueError: If there is no such trajectory or split, or if a raw file is damaged or not the
            one expected.
    """

    file_names: ClassVar[dict[str, str]] = {
        **{
            name: f"md17_{name.removesuffix(' acid')}.npz"
            for name in COMPOSITIONS
            if name not in ("azobenzene", "benzene", "paracetamol")
        },
        "benzene": "md17_benzene2017.npz",
        "azobenzene": "azobenzene_dft.npz",
        "paracetamol": "paracetamol_dft.npz",
        "benzene FHI-aims": "benzene2018_dft.npz",
        **{f"revised {name}": f"rmd17_{name.removesuffix(' acid')}.npz" for name in COMPOSITIONS},
        "aspirin CCSD": "aspirin_ccsd.zip",
        **{
            f"{name} CCSD(T)": f"{name}_ccsd_t.zip"
            for name in ("benzene", "ethanol", "malonaldehyde", "toluene")
        },
    }
    sources: ClassVar[tuple[str, ...]] = (
        "https://sgdml.org/secure_proxy.php?file=data/npz/",
        "http://www.quantum-machine.org/gdml/data/npz/",
    )
    #: All revised trajectories together.
    archive: ClassVar[RemoteFile] = RemoteFile(
        name="rmd17.tar.bz2",
        urls=(
            "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2",
            "https://figshare.com/ndownloader/files/23950376",
        ),
        size=1_066_301_513,
        md5="cb1a927628d96f2e966025da4fb63d18",
    )

    def __init__(
        self,
        root: str | Path,
        name: str,
        *,
        split: int | None = None,
        train: bool | None = None,
        units: str | None = None,
        cutoff: float | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        force_reload: bool = False,
    ):
        check_cutoff(cutoff)
        check_energy_unit(units)
        check_train(train)
        if name not in self.file_names:
            raise ValueError(f"unknown trajectory '{name}': MD17 has {', '.join(self.file_names)}")
        self.name, self.split, self.train = name, split, train
        self._check_part()
        super().__init__(str(root), transform, pre_transform, pre_filter, force_reload=force_reload)
        self._hold(*self._load_processed(), UNITS, energy=units, cutoff=cutoff)

    def _check_part(self) -> None:
        """Complains about a part that the trajectory does not have, or does not say."""
        if self._is_revised:
            if self.split not in (None, 1, 2, 3, 4, 5) or self.split is True:
                raise ValueError(f"the official splits are 1 to 5 (got split={self.split!r})")
            if (self.split is None) != (self.train is None):
                raise ValueError(
                    f"'{self.name}' has five splits: give both 'split' (1 to 5) and 'train' (True "
                    f"or False), or neither (got split={self.split}, train={self.train})"
                )
            return
        if self.split is not None:
            raise ValueError(f"'{self.name}' has no numbered splits (got split={self.split})")
        if self._is_ccsd and self.train is None:
            raise ValueError(f"'{self.name}' comes in two parts: give train=True or train=False")
        if not self._is_ccsd and self.train is not None:
            raise ValueError(
                f"'{self.name}' has no official split: leave out 'train' and split it by time, "
                "such as dataset[:1000] and dataset[50_000:]"
            )

    @property
    def _is_revised(self) -> bool:
        return self.name.startswith("revised")

    @property
    def _is_ccsd(self) -> bool:
        return "CCSD" in self.name

    @property
    def raw_dir(self) -> str:
        """One folder for all revised trajectories, which come together, and one for each other."""
        return str(
            Path(self.root, "raw") if self._is_revised else Path(self.root, self.name, "raw")
        )

    @property
    def processed_dir(self) -> str:
        """A folder for each trajectory."""
        return str(Path(self.root, self.name, "processed"))

    @property
    def raw_file_names(self) -> list[str]:
        """The trajectory, and the list of frames of an official split."""
        file = self.file_names[self.name]
        if self._is_ccsd:
            return [f"{file.removesuffix('.zip')}-{'train' if self.train else 'test'}.npz"]
        if not self._is_revised:
            return [file]
        names = [f"rmd17/npz_data/{file}"]
        if self.split is not None:
            names.append(f"rmd17/splits/{split_file(self.split, bool(self.train))}")
        return names

    @property
    def processed_file_names(self) -> str:
        """The frames, collated; the number changes whenever the content does."""
        part = {None: "all", True: "train", False: "test"}[self.train]
        return f"{part}{self.split or ''}_v1.pt"

    def download(self) -> None:
        """Fetches the raw files that are not there."""
        if self._is_processed:
            return
        if not (self._is_revised or self._is_ccsd):
            self._fetch(self._source, check_npz)
            return
        missing = [path for path in map(Path, self.raw_paths) if not path.exists()]
        trajectory, *lists = map(Path, self.raw_paths)
        if missing == lists and self._read_raw(self.archive, has_splits, trajectory):
            return
        self._fetch(self._source, check_archive)
        self._read_raw(self._source, lambda whole: extract(whole, missing))

    def process(self) -> None:
        """Turns the raw files into one file of collated frames."""
        self._save_processed(*collate_frames(self._read()))

    @property
    def _source(self) -> RemoteFile:
        """What is downloaded."""
        if self._is_revised:
            return self.archive
        file = self.file_names[self.name]
        return RemoteFile(file, [source + file for source in self.sources])

    def _read(self) -> RawFrames:
        path = Path(self.raw_paths[0])
        rows = None
        if self.split is not None:
            folder, split, train = Path(self.raw_paths[1]).parent, self.split, bool(self.train)
            rows = self._read_raw(
                self._source, lambda file: read_split(file, folder, split, train), path
            )
        molecule = self.name.removeprefix("revised ")
        for method in (" CCSD(T)", " CCSD", " FHI-aims"):
            molecule = molecule.removesuffix(method)
        return self._read_raw(self._source, lambda file: read_frames(file, molecule, rows), path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, name='{self.name}')"


def collate_frames(raw: RawFrames) -> tuple[Data, Slices]:
    """Frames in the units of the files, ready for ``InMemoryDataset``."""
    num_frames, num_atoms, _ = raw.pos.shape
    return collate(
        torch.full((num_frames,), num_atoms),
        {
            "z": torch.from_numpy(raw.z).repeat(num_frames),
            "pos": torch.from_numpy(raw.pos).view(-1, 3),
            "force": torch.from_numpy(raw.force).view(-1, 3),
        },
        {"energy": torch.from_numpy(raw.energy), "frame": torch.from_numpy(raw.frame)},
    )


def check_train(train: bool | None) -> None:
    """Complains about a part that would be taken for the one to train on."""
    if not (train is None or isinstance(train, bool)):
        raise TypeError(f"'train' must be True, False or None (got {train!r})")
