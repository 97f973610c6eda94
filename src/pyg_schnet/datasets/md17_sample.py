r"""Real trajectories that come with the package."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from .md17 import UNITS, check_train, collate_frames
from .md17_files import RawFrames, read_frames, read_split
from .molecules import InMemoryMolecules, check_cutoff, check_energy_unit

_MOLECULES = ("aspirin", "ethanol")
# All frames to train on of the first official split, and as many to test with as make the two
# files together less than a megabyte.
_SPLIT, _NUM_TRAIN, _NUM_TEST = 1, 1000, 300


class MD17Sample(InMemoryMolecules):
    r"""1,300 frames of ethanol or aspirin of the revised :class:`~pyg_schnet.datasets.MD17`,
    shipped with the package.

    From `On the role of gradients for machine learning of molecular energies and forces
    <https://doi.org/10.1088/2632-2153/abba6f>`_ (Christensen and von Lilienfeld, Mach. Learn.:
    Sci. Technol. 1, 045018, 2020; data in the public domain, CC0): the 1,000 frames to train on of
    the first official split, then 300 of its 1,000 frames to test with, evenly spread, each ordered
    by time. Fields, units and numbers are those of :class:`~pyg_schnet.datasets.MD17`: energies in
    float64, positions and forces rounded to float32 only. For trying out and testing,
    without a download and without writing to the disk; errors on 300 frames are close to, but not
    those of, the official test set.

    Args:
        name: ``"revised ethanol"`` or ``"revised aspirin"``, with or without ``"revised"``.
        train: The 1,000 frames to train on, or (``False``) the 300 to test with; all if ``None``.
        units: As for :class:`~pyg_schnet.datasets.MD17`.
        cutoff: As for :class:`~pyg_schnet.datasets.MD17`.
        transform: Applied to a frame at each access.

    Raises:
        TypeError: If ``train`` is not a truth value.
        ValueError: If there is no such molecule.

    >>> dataset = MD17Sample("ethanol", train=True, units="eV")
    >>> dataset
    MD17Sample(1000, name='revised ethanol')
    >>> dataset[0]
    Data(z=[9], pos=[9, 3], force=[9, 3], energy=[1], frame=[1])
    >>> print(f"{dataset[0].energy.item():.3f} {dataset.units['energy']}")
    -4209.571 eV
    """

    def __init__(
        self,
        name: str,
        *,
        train: bool | None = None,
        units: str | None = None,
        cutoff: float | None = None,
        transform: Callable | None = None,
    ):
        check_cutoff(cutoff)
        check_energy_unit(units)
        check_train(train)
        molecule = name.removeprefix("revised ")
        if molecule not in _MOLECULES:
            known = " and ".join(f"'revised {molecule}'" for molecule in _MOLECULES)
            raise ValueError(f"there is no sample of '{name}', only of {known}: see MD17")
        self.name, self.train = f"revised {molecule}", train
        super().__init__(None, transform)
        data, slices = collate_frames(_read(molecule, train))
        self._hold(data, slices, UNITS, energy=units, cutoff=cutoff)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, name='{self.name}')"


def _read(molecule: str, train: bool | None) -> RawFrames:
    part = {None: slice(None), True: slice(_NUM_TRAIN), False: slice(_NUM_TRAIN, None)}[train]
    with (
        files(__package__).joinpath(f"md17_sample_{molecule}.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        return RawFrames(
            z=arrays["z"].astype(np.int64),
            pos=arrays["pos"][part],
            energy=arrays["energy"][part],
            force=arrays["force"][part],
            frame=arrays["frame"][part].astype(np.int64),
        )


def write_md17_sample(trajectory: Path, lists: Path, molecule: str, folder: Path) -> Path:
    r"""Makes a file that :class:`MD17Sample` loads.

    From the archive ``rmd17.tar.bz2``, unpacked::

        from pathlib import Path
        from .md17_sample import write_md17_sample

        raw = Path("rmd17")
        for name in ("aspirin", "ethanol"):
            file = raw / "npz_data" / f"rmd17_{name}.npz"
            write_md17_sample(file, raw / "splits", name, Path("."))

    Args:
        trajectory: The revised trajectory.
        lists: Folder of the official lists of frames.
        molecule: ``"aspirin"`` or ``"ethanol"``.
        folder: Where to write ``md17_sample_{molecule}.npz``.

    Returns:
        The path of the file.
    """
    train = np.sort(read_split(trajectory, lists, _SPLIT, train=True))
    test = np.sort(read_split(trajectory, lists, _SPLIT, train=False))
    test = test[np.arange(_NUM_TEST) * len(test) // _NUM_TEST]
    raw = read_frames(trajectory, molecule, np.concatenate([train, test]))
    path = folder / f"md17_sample_{molecule}.npz"
    np.savez_compressed(
        path,
        z=raw.z.astype(np.uint8),
        pos=raw.pos,
        energy=raw.energy,
        force=raw.force,
        frame=raw.frame.astype(np.int32),
    )
    return path
