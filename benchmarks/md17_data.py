r"""MD17 for the benchmarks: where the frames come from, and how they are split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Parts, fields

from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17, MD17Sample
from pyg_schnet.datasets.md17 import UNITS, collate_frames
from pyg_schnet.datasets.md17_files import has_splits, read_frames, read_split
from pyg_schnet.datasets.molecules import InMemoryMolecules
from pyg_schnet.training import Evaluation

# All pairs of atoms of these molecules are within it.
CUTOFF = 30.0
NUM_VAL = 1_000
# Frames of an official split to learn from, and of these the ones that validate.
OFFICIAL, OFFICIAL_VAL = 1_000, 50


class Frames(InMemoryMolecules):
    """The frames of an npz file in the layout of MD17, wherever it lies; some if told which."""

    def __init__(
        self,
        path: Path,
        name: str,
        rows: np.ndarray | None = None,
        cutoff: float | None = CUTOFF,
    ):
        super().__init__(None)
        self.name = name
        raw = read_frames(path, name.removeprefix("revised "), rows)
        self._hold(*collate_frames(raw), UNITS, cutoff=cutoff)


@dataclass(frozen=True)
class Source:
    """Frames of a molecule, split.

    Attributes:
        name: Its name, with the labels: ``"ethanol"`` or ``"revised ethanol"``.
        split: Number of the official split; ``None`` if frames are split at random.
        frames: How many there are, and which of the trajectory, which they follow in time.
        parts: Frames to train, to validate and to test with; ``None`` if there are not enough.
    """

    name: str
    split: int | None
    frames: dict[str, int]
    parts: Parts | None


def open_source(
    root: Path,
    molecule: str,
    labels: str,
    split: int | None,
    num_train: int,
    seed: int,
    cutoff: float | None = CUTOFF,
) -> Source:
    """Reads and splits the frames of a molecule.

    Original labels are split at random, for any number of frames to train on. Of revised labels
    the official split is taken: 50 of the 1,000 frames that it gives to learn from validate.

    Args:
        root: Folder of files such as ``md17_ethanol.npz``, or for :class:`MD17`.
        molecule: Its name.
        labels: ``"original"`` or ``"revised"``.
        split: Number of the official split of revised labels, 1 to 5.
        num_train: Frames to train on.
        seed: Seed of the random split, or of the choice of those that validate.
        cutoff: Radius of stored edges; none are stored if ``None``.

    Raises:
        SystemExit: If more frames are asked for than an official split has.
    """
    if labels == "original":
        frames = open_frames(root, molecule, cutoff=cutoff)
        return split_at_random(frames, num_train, NUM_VAL, seed)
    if num_train > OFFICIAL - OFFICIAL_VAL:
        raise SystemExit(
            f"--num-train: official splits have {OFFICIAL:,} frames to learn from, of which "
            f"{OFFICIAL_VAL} validate: {OFFICIAL - OFFICIAL_VAL} at most (got {num_train:,})"
        )
    name, number = f"revised {molecule}", split or 1
    learned, tested = (open_frames(root, name, number, train, cutoff) for train in (True, False))
    train, val = random_split(learned, [num_train, OFFICIAL_VAL], seed)
    return Source(name, number, frames_of(learned, tested), Parts(train, val, tested))


def open_sample(num_train: int, num_val: int, seed: int, cutoff: float | None = CUTOFF) -> Source:
    """The shipped frames of ethanol."""
    return split_at_random(MD17Sample("ethanol", cutoff=cutoff), num_train, num_val, seed)


def split_at_random(dataset: Any, num_train: int, num_val: int, seed: int) -> Source:
    """Splits frames, if there are enough to leave one to test with."""
    parts = None
    if num_train + num_val < len(dataset):
        parts = Parts(*random_split(dataset, [num_train, num_val, -1], seed))
    return Source(dataset.name, None, frames_of(dataset), parts)


def open_frames(
    root: Path,
    name: str,
    split: int | None = None,
    train: bool | None = None,
    cutoff: float | None = CUTOFF,
) -> Any:
    """A trajectory with its edges: a file in a folder, or the data set that downloads it.

    Args:
        root: The folder.
        name: Such as ``"ethanol"`` or ``"revised ethanol"``.
        split: Number of an official split of which to take a part.
        train: That to train on, or that to test with.
        cutoff: Radius of the edges; without any if ``None``.
    """
    molecule = name.removeprefix("revised ")
    start = "md17" if molecule == name else "rmd17"
    for file in (MD17.file_names[name], f"{start}_{molecule.removesuffix(' acid')}.npz"):
        path = root / file
        if path.is_file() and (split is None or has_splits(path)):
            rows = None if split is None else read_split(path, root, split, bool(train))
            return Frames(path, name, rows, cutoff)
    return MD17(root, name, split=split, train=train, cutoff=cutoff)


def frames_of(*datasets: Any) -> dict[str, int]:
    """How many frames there are, and which of the trajectory."""
    numbers = torch.cat([dataset._data.frame for dataset in datasets])
    return {
        "number": sum(len(dataset) for dataset in datasets),
        "first": int(numbers.min()),
        "last": int(numbers.max()),
    }


def mean_predictor(parts: Parts) -> Evaluation:
    """The mean energy, and the mean force of each atom, of the frames to train on."""
    (energy, force), (wanted, acting) = fields(parts.train), fields(parts.test)
    mean = force.view(len(energy), -1).mean(dim=0)  # [3 n]
    return Evaluation.of(
        energy.mean().expand_as(wanted),
        wanted,
        forces=Evaluation.of(mean.repeat(len(wanted)), acting.flatten()),
    )
