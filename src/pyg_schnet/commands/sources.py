r"""The molecules of ``--data``: published sets, samples that come with the package, own files."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.ase import keys_of
from ..datasets import ISO17, MD17, QM9, MD17Sample, MoleculeDataset, QM9Sample
from ..datasets.molecules import InMemoryMolecules
from ..datasets.npz import open_npz
from ..datasets.own import frames_by_ase
from ..datasets.qm9_properties import QM9Properties
from ..training.labels import label_units
from .flags import UsageError, meant, one_of

# Means over atoms, not sums; the latter three are rotational constants in QM9 only.
_INTENSIVE = frozenset({"homo", "lumo", "gap"})
_CONSTANTS = frozenset({"A", "B", "C"})
# What forces are derivatives of.
_ENERGIES = frozenset({"energy", "U0", "U", "H", "G", "U0_atom", "U_atom", "H_atom", "G_atom"})
_SAMPLES = ("aspirin", "ethanol")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which molecules, in which units, and how many of them for what.

    Attributes:
        data: What to read: qm9, qm9-sample, md17:NAME (such as md17:ethanol), rmd17:NAME (revised
            labels), md17-sample:NAME (ethanol or aspirin, in the package, with the revised labels
            of rmd17), iso17, or a file: .npz arrays, or what ASE reads, such as .xyz, .extxyz and
            .db.
        root: Folder of the published sets, downloaded there if they are missing.
        units: Unit of energy to convert the labels to, such as kcal/mol; forces follow.
        file_units: Unit of the energies in a file, forces are in that per angstrom (usual: what an
            .npz says in e_unit; eV for what ASE reads).
        energy_key: Name of the energies in a file. Where one of the three keys is given, only what
            they name is read.
        force_key: Name of the forces in a file.
        stress_key: Name of the stress in a file.
        split: Official split of a revised trajectory, 1 to 5: 950 and 50 of its 1,000 frames to
            train and validate, its other 1,000 to test.
        num_train: Molecules to train on (usual: qm9 110462, md17 1000, a file 80 %).
        num_val: Molecules to validate with (usual: qm9 and md17 1000, a file 10 %).
        num_test: Molecules to test with (usual: all that are left).
        split_seed: Seed by which molecules are split at random (usual: that of --seed).
    """

    data: str
    root: str = "data"
    units: str | None = None
    file_units: str | None = None
    energy_key: str | None = None
    force_key: str | None = None
    stress_key: str | None = None
    split: int | None = None
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    split_seed: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("num_train", 1), ("num_val", 1), ("num_test", 0), ("split_seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UsageError(f"'{name}' must be at least {lowest} (got {value})")


@dataclass(frozen=True)
class Source:
    """Molecules as they come, before a random split.

    Attributes:
        name: What they are, in file names.
        pool: Molecules to train on, and whatever of the following has no molecules of its own.
        num_train: How many to train on, usually.
        num_val: How many to validate with, usually.
        val: Molecules to validate with, if they come separately.
        tests: Molecules to test with by name, if they come separately.
        label: What to learn, usually.
        file: The file they are from, if it is the user's own.
        file_units: Why the labels in it are taken to be in the unit that they are, if it is.
    """

    name: str
    pool: InMemoryMolecules
    num_train: int | None
    num_val: int | None
    val: InMemoryMolecules | None = None
    tests: Mapping[str, InMemoryMolecules] = field(default_factory=dict)
    label: str = "energy"
    file: Path | None = None
    file_units: str = ""

    @property
    def has_forces(self) -> bool:
        """Whether the molecules have forces."""
        return self.pool[0].get("force") is not None

    @property
    def is_periodic(self) -> bool:
        """Whether any of the molecules is periodic."""
        pbc = self.pool._data.get("pbc")
        return pbc is not None and bool(pbc.any())

    def described_units(self, label: str | int) -> str:
        """The unit of a label, and how it is known, in one line."""
        unit = label_units(self.pool, label)
        if unit is None:
            return f"The unit of '{label}' is not known"
        if not is_energy(label):
            return f"Labels are in {unit}"
        return f"Labels are in {unit} and angstrom{self.file_units}"

    def check_label(self, label: str | int) -> None:
        """Looks whether a file has energies or forces, where these are wanted, as they are named.

        Raises:
            UsageError: If it has neither; lists the names that there are.
        """
        has_some = self.has_forces or self.pool[0].get("energy") is not None
        if self.file is not None and label == "energy" and not has_some:
            raise UsageError(_other_keys(self.file))

    def head(self, label: str | int) -> dict[str, Any]:
        """Arguments of a model that predicts a label: sum or mean over atoms, and its name."""
        is_qm9 = isinstance(self.pool, QM9Properties)
        if isinstance(self.pool, QM9Properties):
            label = self.pool.target_names[self.pool.target_index(label)]
        is_mean = label in _INTENSIVE or (is_qm9 and label in _CONSTANTS)
        return {
            "readout": "mean" if is_mean else "add",
            "dipole": is_qm9 and label == "mu",
            "target": "energy" if label in _ENERGIES else str(label),
        }


def is_energy(label: str | int) -> bool:
    """Whether a label of the sets known here is an energy of the molecule as a whole."""
    return label in _ENERGIES


def load(settings: DataSettings, label: str | int | None = None) -> Source:
    r"""Reads the molecules, and downloads published ones that are not there.

    Args:
        settings: Which.
        label: What they are for, in a file that may have more; energies (and forces) if ``None``.

    Raises:
        UsageError: If there is no such set, molecule or split.
        FileNotFoundError: If there is no such file.
        DownloadError: If it cannot be downloaded; says what to do by hand.
        ValueError: If a file is damaged, or not what it should be.
    """
    kind, colon, name = settings.data.partition(":")
    if kind not in _SETS:
        return _own(settings, label)
    read, names = _SETS[kind]
    _refuse(settings, ("file_units", "energy_key", "force_key", "stress_key"), "a file")
    if kind != "rmd17":
        _refuse(settings, ("split",), "rmd17:NAME")
    if names is None and colon:
        raise UsageError(f"'{kind}' has no parts: leave out ':{name}'")
    if names is not None:
        name = _molecule(kind, name, names)
    return read(settings, name)


def _molecule(kind: str, name: str, names: Mapping[str, str]) -> str:
    """The name of a trajectory, of what is easier to type."""
    typed = " ".join(name.replace("_", " ").replace("-", " ").split()).lower()
    if not typed:
        raise UsageError(f"'{kind}' needs a molecule, such as '{kind}:ethanol': {', '.join(names)}")
    return names[one_of(typed, names, "molecule", f" of {kind}")]


def _refuse(settings: DataSettings, unwanted: tuple[str, ...], owner: str) -> None:
    for name in unwanted:
        if (value := getattr(settings, name)) is not None:
            raise UsageError(f"'{name}' ({value}) is for {owner}, not for '{settings.data}'")


def _qm9(settings: DataSettings, name: str) -> Source:
    pool = QM9(Path(settings.root, "QM9"), units=settings.units)
    return Source("qm9", pool, 110_462, 1_000, label="U0")


def _qm9_sample(settings: DataSettings, name: str) -> Source:
    return Source("qm9-sample", QM9Sample(units=settings.units), 2_400, 200, label="U0")


def _md17(settings: DataSettings, name: str) -> Source:
    def read(**part: Any) -> MD17:
        return MD17(Path(settings.root, "MD17"), name, units=settings.units, **part)

    slug = name.replace("revised ", "r").replace(" ", "_")
    if settings.split is not None or "CCSD" in name:
        official = {} if settings.split is None else {"split": settings.split}
        tests = {"test": read(train=False, **official)}
        return Source(f"md17-{slug}", read(train=True, **official), 950, 50, tests=tests)
    return Source(f"md17-{slug}", read(), 1_000, 1_000)


def _md17_sample(settings: DataSettings, name: str) -> Source:
    train, test = (MD17Sample(name, train=part, units=settings.units) for part in (True, False))
    return Source(f"md17-sample-{name}", train, 950, 50, tests={"test": test})


def _iso17(settings: DataSettings, name: str) -> Source:
    def read(fold: str) -> ISO17:
        return ISO17(Path(settings.root, "ISO17"), fold, units=settings.units)

    tests = {fold: read(fold) for fold in ("test_within", "test_other")}
    return Source("iso17", read("train"), None, None, read("validation"), tests)


def _own(settings: DataSettings, label: str | int | None) -> Source:
    path = Path(settings.data)
    if not path.is_file():
        kind, colon, _ = settings.data.partition(":")
        if not path.suffix or colon:
            hint = meant(kind, _SETS)
            known = ", ".join(
                kind if names is None else f"{kind}:NAME" for kind, (_, names) in _SETS.items()
            )
            raise UsageError(
                f"unknown data '{settings.data}': {hint + ' ' if hint else ''}It is a file, or one "
                f"of {known}"
            )
        raise FileNotFoundError(f"there is no file '{path}'")
    _refuse(settings, ("split",), "rmd17:NAME")
    keys = {
        "energy": settings.energy_key,
        "force": settings.force_key,
        "stress": settings.stress_key,
    }
    labels = {name: key for name, key in keys.items() if key is not None}
    if isinstance(label, str) and label not in keys:
        labels[label] = label
    units = {} if settings.file_units is None else {"energy": settings.file_units}
    try:
        pool = MoleculeDataset.from_file(
            path, labels=labels or None, units=units, energy=settings.units
        )
    except ValueError as error:
        if "say what unit" in str(error):
            raise UsageError(
                f"'{path}' does not say its unit of energy: name it by --file-units"
            ) from error
        unnamed = ("nothing here is in a unit of energy", "'units' has 'energy'")
        if not labels and any(text in str(error) for text in unnamed):
            raise UsageError(_other_keys(path)) from error
        raise
    size = len(pool)
    numbers = max(1, int(0.8 * size)), max(1, int(0.1 * size))
    return Source(path.stem, pool, *numbers, file=path, file_units=_reason(settings))


def _reason(settings: DataSettings) -> str:
    """Why the labels of a file are taken to be in the unit that they are."""
    if settings.file_units is not None:
        return f" (in the file {settings.file_units}, by --file-units)"
    if Path(settings.data).suffix == ".npz":
        return ""
    return " (in the file eV, as ASE has it; if that is wrong, name its unit by --file-units)"


def _other_keys(path: Path) -> str:
    """What to do with a file that has no labels under their usual names."""
    if path.suffix == ".npz":
        with open_npz(path) as arrays:
            stores = {"arrays": sorted(arrays)}
    else:
        with closing(frames_by_ase(path)) as frames:
            stores = keys_of(next(frames))
    names = [name for keys in stores.values() for name in keys]
    flags = [
        f"{flag} {next((name for name in names if what in name.lower()), what.upper())}"
        for flag, what in (("--energy-key", "energy"), ("--force-key", "force"))
    ]
    there = " and ".join(f"in {store} {keys or 'nothing'}" for store, keys in stores.items())
    return (
        f"'{path}' has no label under the usual names (it has {there}): name the energies, and "
        f"forces if there are any, such as by {' '.join(flags)} (in Python by labels=)"
    )


_Reader = Callable[[DataSettings, str], Source]


def _names(*names: str) -> dict[str, str]:
    return {name.lower().replace("-", " "): name for name in names}


_PLAIN = [name for name in MD17.file_names if not name.startswith("revised")]
_REVISED = [name for name in MD17.file_names if name.startswith("revised")]
# How each set is read, and the names of its parts, as they are typed.
_SETS: dict[str, tuple[_Reader, dict[str, str] | None]] = {
    "qm9": (_qm9, None),
    "qm9-sample": (_qm9_sample, None),
    "md17": (_md17, _names(*_PLAIN)),
    "rmd17": (_md17, {name.removeprefix("revised "): name for name in _REVISED}),
    "md17-sample": (_md17_sample, _names(*_SAMPLES)),
    "iso17": (_iso17, None),
}
