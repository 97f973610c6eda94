r"""ISO17 and ISO17-GFN2 for the benchmarks: the files, and the protocol of the paper.

ISO17-GFN2 repeats that protocol where ISO17 cannot be had: 129 isomers of C7O2H10 from QM9, chosen
at random, Langevin dynamics at 500 K with GFN2-xTB, 500 frames of each, 4 fs apart. A sample
comes with the benchmarks. As in ISO17 conformations are split at random, so that those of known
molecules lie between ones that were trained on; the unknown molecules are the harder test.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Parts

from pyg_schnet.data.units import convert
from pyg_schnet.datasets import ISO17, MoleculeDataset
from pyg_schnet.datasets.iso17_db import COMPOSITION

SAMPLE = Path(__file__).parent / "data" / "iso17_gfn2_sample.npz"
# Shares of molecules and of their conformations that may be trained on.
_SHARE = 0.8
_VAL = 1_000
# In eV. Total energies are -11,500 where all electrons count, as in ISO17, and -765 of GFN2, which
# counts those of valence.
_ALL_ELECTRONS = -5_000.0


@dataclass(frozen=True)
class Source:
    """Conformations, split so that nothing leaks.

    Attributes:
        name: ``"ISO17"`` or ``"ISO17-GFN2"``, told by the energies.
        parts: Molecules; ``test`` has unknown conformations of known molecules, ``also["other"]``
            those of unknown molecules. Energies in kcal/mol.
        molecules: How many molecules are known, and unknown, where the files tell.
    """

    name: str
    parts: Parts
    molecules: tuple[int, int] | None = None


def open_folder(root: Path, num_train: int | None) -> Source:
    """Reads files in the layout of ISO17, which are split already.

    Args:
        root: Folder for :class:`~pyg_schnet.datasets.ISO17`.
        num_train: How many of its conformations to train on, from the first on in a random order;
            all if ``None``.
    """
    folds = {
        fold: ISO17(root, fold, units="kcal/mol")
        for fold in ("train", "validation", "test_within", "test_other")
    }
    train = _some(folds["train"], num_train, seed=0)
    other = {"other": folds["test_other"]}
    parts = Parts(train, folds["validation"], folds["test_within"], other)
    return Source(_name(folds["test_other"]), parts)


def open_file(path: Path, num_train: int | None, seed: int) -> Source:
    """Reads frames of molecules, and splits them as ISO17 was: see :func:`divide`.

    The file has ``z`` ``[M, 19]``, ``R`` and ``F`` ``[B, 19, 3]`` in angstrom and eV/Ang, ``E``
    ``[B]`` in eV and ``molecule`` ``[B]``, the row of ``z``.

    Args:
        path: The npz file.
        num_train: How many conformations to train on; all there are if ``None``.
        seed: Seed of the split.

    Raises:
        SystemExit: If the molecules are not those of ISO17.
    """
    with np.load(path) as arrays:
        z, member = arrays["z"].astype(np.int64), arrays["molecule"].astype(np.int64)
        frames = {name: arrays[name] for name in ("R", "E", "F")}
    if z.shape[1:] != COMPOSITION.shape or (np.sort(z, axis=1) != COMPOSITION).any():
        raise SystemExit(f"'{path}' must have isomers of C7O2H10 in 'z' (got {list(z.shape)})")
    dataset = MoleculeDataset.from_arrays(
        {"z": z[member], **frames},
        units={"energy": "eV", "force": "eV/Ang"},
        energy="kcal/mol",
    )
    sets = divide(member, seed)
    train = _some(dataset[sets["train"]], num_train, seed)
    other = {"other": dataset[sets["other"]]}
    parts = Parts(train, dataset[sets["val"]], dataset[sets["within"]], other)
    known = len(np.unique(member[sets["train"]]))
    return Source(_name(dataset), parts, (known, len(z) - known))


def divide(member: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Splits conformations by the protocol of ISO17.

    Of 80 % of the molecules, 80 % of the conformations may be trained on, but for up to 1,000 (or a
    tenth) that validate; the other 20 % are ``within``. All of the other molecules are ``other``.

    Args:
        member: Molecule of each conformation ``[B]``.
        seed: Seed of the choice.

    Returns:
        Numbers of the conformations in ``train``, ``val``, ``within`` and ``other``, ascending.
    """
    random = np.random.default_rng(seed)
    molecules = random.permutation(np.unique(member))
    known = set(molecules[: round(_SHARE * len(molecules))].tolist())
    reference, within = [], []
    for molecule in sorted(known):
        frames = random.permutation(np.flatnonzero(member == molecule))
        border = round(_SHARE * len(frames))
        reference.append(frames[:border])
        within.append(frames[border:])
    shuffled = random.permutation(np.concatenate(reference))
    held = min(_VAL, len(shuffled) // 10)
    sets = {
        "train": shuffled[held:],
        "val": shuffled[:held],
        "within": np.concatenate(within),
        "other": np.flatnonzero(~np.isin(member, list(known))),
    }
    return {name: np.sort(numbers) for name, numbers in sets.items()}


def write_sample(path: Path, sample: Path = SAMPLE) -> None:
    """Makes the file of the quick version: 20 frames of each of 10 molecules, evenly spread.

    Args:
        path: All frames of ISO17-GFN2.
        sample: File to write.
    """
    with np.load(path) as arrays:
        whole = dict(arrays)
    molecules = np.linspace(0, len(whole["z"]) - 1, 10).round().astype(int)
    chosen = []
    for molecule in molecules:
        frames = np.flatnonzero(whole["molecule"] == molecule)
        chosen.append(frames[np.linspace(0, len(frames) - 1, 20).round().astype(int)])
    rows = np.concatenate(chosen)
    np.savez_compressed(
        sample,
        z=whole["z"][molecules],
        molecule=np.repeat(np.arange(10, dtype=np.uint8), 20),
        qm9_index=whole["qm9_index"][molecules],
        **{name: whole[name][rows] for name in ("R", "E", "F")},
    )


def _some(dataset: Any, number: int | None, seed: int) -> Any:
    if number is None:
        return dataset
    if number > len(dataset):
        raise SystemExit(f"--num-train: there are {len(dataset):,} to train on (got {number:,})")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return dataset[order[:number]]


def _name(dataset: Any) -> str:
    """What the data are, by their energies in kcal/mol."""
    mean = convert(float(dataset._data.energy.mean()), "kcal/mol", "eV")
    return "ISO17" if mean < _ALL_ELECTRONS else "ISO17-GFN2"
