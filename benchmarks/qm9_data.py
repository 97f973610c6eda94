r"""QM9 for the benchmarks: where it comes from, how it is split, and what predicts each target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from baselines.dtnn import DTNN
from baselines.enn_s2s import EnnS2S
from rows import Parts
from spatial_extent import SpatialExtentSchNet

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9, MoleculeDataset, QM9Sample

# Typed in from the paper, Table 1: test MAE of U0 in kcal/mol by size of the training set.
PAPER: dict[int, dict[str, float]] = {
    50_000: {"SchNet": 0.59, "DTNN": 0.94},
    100_000: {"SchNet": 0.34, "DTNN": 0.84},
    110_462: {"SchNet": 0.31, "enn-s2s": 0.45, "enn-s2s-ens5": 0.33},
}
# Typed in from Schütt et al., J. Chem. Phys. 148, 241722 (2018): test MAE of SchNet trained on
# 110,000 molecules, and its unit.
PAPER_2018: dict[str, tuple[float, str]] = {
    "mu": (0.033, "Debye"),
    "alpha": (0.235, "Bohr^3"),
    "homo": (41, "meV"),
    "lumo": (34, "meV"),
    "gap": (63, "meV"),
    "r2": (0.073, "Bohr^2"),
    "zpve": (1.7, "meV"),
    "U0": (14, "meV"),
    "U": (19, "meV"),
    "H": (14, "meV"),
    "G": (14, "meV"),
    "Cv": (0.033, "cal/mol/K"),
}
TARGETS = tuple(PAPER_2018)
# Sizes of the learning curve, as far as the molecules go.
CURVE = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 110_462)
# Properties of the molecule as a whole, which the mean over its atoms reads out.
_INTENSIVE = ("homo", "lumo", "gap")
# Names of the targets in files that keep to those of the original ones.
_IN_FILES = {"U0": "u0", "U": "u298", "H": "h298", "G": "g298", "Cv": "cv"}
_MOLECULES = QM9.num_molecules - QM9.num_uncharacterized
_TRAIN, _VAL = 110_462, 1_000


@dataclass(frozen=True)
class Source:
    """Molecules with one target.

    Attributes:
        dataset: The molecules.
        name: What to call them: ``"QM9"`` if they are all there.
        target: Name of the target, which is the label to train on.
        unit: Its unit; energies are in kcal/mol.
    """

    dataset: Any
    name: str
    target: str
    unit: str


def open_qm9(root: Path | None, data: Path | None, target: str, most: int | None = None) -> Source:
    """Reads the data set in a folder, or in a file, or the sample of the package.

    Args:
        root: Folder of :class:`~pyg_schnet.datasets.QM9`.
        data: File in place of it, see :func:`read_file`.
        target: One of ``TARGETS``.
        most: How many molecules to take, from the first; all if ``None``.
    """
    published = QM9.published_units[target]
    energy = "kcal/mol" if published == "eV" else None
    dataset: Any
    if data is not None:
        dataset = read_file(data, target)
    elif root is not None:
        dataset = QM9(root, targets=[target], units=energy)
    else:
        dataset = QM9Sample(targets=[target], units=energy)
    name = "QM9Sample" if root is None and data is None else "QM9"
    if most is not None:
        dataset = dataset[:most]
    if most is not None or (name == "QM9" and len(dataset) != _MOLECULES):
        name = f"{len(dataset):,} molecules of {name}"
    return Source(dataset, name, target, energy or published)


def read_file(path: Path, target: str) -> MoleculeDataset:
    """Molecules of an npz file, without the uncharacterized; energies in kcal/mol.

    The file has ``n_atoms`` ``[M]``, ``Z`` ``[N]`` and ``R`` ``[N, 3]`` in angstrom, targets in the
    units of QM9's own files, and maybe a mask ``uncharacterized`` ``[M]``.

    Raises:
        SystemExit: If the target is not in it.
    """
    with np.load(path) as arrays:
        known = [name for name in (target, _IN_FILES.get(target, target)) if name in arrays]
        if not known:
            raise SystemExit(f"'{path}' has no target '{target}', only {', '.join(arrays)}")
        names = ("n_atoms", "Z", "R", known[0])
        whole = {name: arrays[name] for name in names}
        left_out = arrays.get("uncharacterized")
    published = QM9.published_units[target]
    return MoleculeDataset.from_arrays(
        whole,
        labels={target: known[0]},
        units={target: "Hartree" if published == "eV" else published},
        energy="kcal/mol" if published == "eV" else None,
        keep=None if left_out is None else ~left_out,
    )


def split(dataset: Any, num_train: int | None, seed: int) -> Parts:
    """The first molecules of those to train on; validation and test set are the same for any size.

    As in the paper 110,462 can be trained on, 1,000 validate, and the others test. Of smaller data
    sets a tenth validates, up to 1,000, and a tenth tests.

    Args:
        dataset: All molecules.
        num_train: How many to train on; as many as there are if ``None``.
        seed: Seed of the split.

    Raises:
        SystemExit: If there are not enough.
    """
    rest = len(dataset) - _TRAIN - _VAL
    tested = rest if rest >= len(dataset) // 10 else len(dataset) // 10
    test, val, train = random_split(dataset, [tested, min(_VAL, len(dataset) // 10), -1], seed)
    if num_train is None:
        num_train = len(train)
    if num_train > len(train):
        raise SystemExit(
            f"--num-train: {len(train):,} of the {len(dataset):,} molecules can be trained on "
            f"(got {num_train:,})"
        )
    return Parts(train[:num_train], val, test)


def network(name: str, source: Source) -> SchNet:
    """The network of a row, with the readout of the target.

    Raises:
        SystemExit: If the network has no such readout.
    """
    target = source.target
    settings: dict[str, Any] = {"units": source.unit}
    if target in _INTENSIVE:
        settings["readout"] = "mean"
    if target != "U0":
        settings["target"] = target
    if name in ("dtnn", "enn-s2s"):
        if target in ("mu", "r2"):
            raise SystemExit(f"{name} has no readout for '{target}': leave it out of --rows")
        return DTNN(**settings) if name == "dtnn" else EnnS2S(**settings)
    if target == "mu":
        return SchNet.paper(dipole=True, **settings)
    return (SpatialExtentSchNet if target == "r2" else SchNet).paper(**settings)
