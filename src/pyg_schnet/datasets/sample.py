r"""Real QM9 molecules that come with the package."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from .molecules import check_cutoff
from .qm9_properties import FILE_COLUMNS, QM9Properties, RawMolecules

_FILE = "qm9_sample.npz"
# Every 40th of so many molecules, which makes a file of less than a megabyte.
_STRIDE, _LAST = 40, 120_000


class QM9Sample(QM9Properties):
    r"""2,938 molecules of :class:`~pyg_schnet.datasets.QM9`, shipped with the package.

    From `Quantum chemistry structures and properties of 134 kilo molecules
    <https://doi.org/10.1038/sdata.2014.22>`_ (Ramakrishnan et al., Sci. Data 1, 140022, 2014):
    every 40th molecule of GDB-9 (1, 41, 81, ..., 119961), without the uncharacterized ones. Fields,
    targets and units are those of :class:`~pyg_schnet.datasets.QM9`, and so are the numbers: for
    trying out and testing, without a download and without writing to the disk. Results on it
    cannot be compared with those on the whole of QM9.

    Args:
        transform: Applied to a molecule at each access.
        cutoff: As for :class:`~pyg_schnet.datasets.QM9`.

    >>> dataset = QM9Sample(cutoff=5.0)
    >>> dataset
    QM9Sample(2938)
    >>> dataset[0].smiles, dataset[0].num_nodes, dataset[0].num_edges
    ('C', 5, 20)
    >>> target = dataset.target_index("U0")
    >>> print(f"{dataset[0].y[0, target]:.3f} {dataset.units['U0']}")
    -1101.488 eV
    """

    def __init__(self, *, transform: Callable | None = None, cutoff: float | None = None):
        check_cutoff(cutoff)
        super().__init__(None, transform)
        self._hold(*self._collate_raw(read_sample()), self.published_units, cutoff=cutoff)


def read_sample() -> RawMolecules:
    """The numbers of the shipped file, in the units of QM9's files."""
    with files(__package__).joinpath(_FILE).open("rb") as file, np.load(file) as arrays:
        return RawMolecules(
            index=arrays["index"],
            num_atoms=arrays["num_atoms"],
            z=arrays["z"],
            pos=arrays["pos"],
            properties=np.stack([arrays[name] for name in FILE_COLUMNS], axis=1),
            smiles=[smiles.decode() for smiles in arrays["smiles"].tolist()],
        )


def write_sample(molecules: RawMolecules, uncharacterized: np.ndarray, path: str | Path) -> None:
    r"""Makes the file that :class:`QM9Sample` loads.

    From the raw files of :class:`~pyg_schnet.datasets.QM9`::

        from .qm9_xyz import read_archive, read_uncharacterized
        from .sample import write_sample

        uncharacterized = read_uncharacterized("uncharacterized.txt", 3054, 133885)
        write_sample(read_archive("dsgdb9nsd.xyz.tar.bz2"), uncharacterized, "qm9_sample.npz")

    Args:
        molecules: All molecules, or at least those of the sample.
        uncharacterized: Numbers of those to leave out, from 1.
        path: File to write.
    """
    every = (molecules.index % _STRIDE == 1) & (molecules.index <= _LAST)
    rows = np.flatnonzero(every & ~np.isin(molecules.index, uncharacterized))
    sample = molecules.take(rows[np.argsort(molecules.index[rows])])
    # One array for each property: neighbouring numbers are alike, and compress better.
    properties = dict(zip(FILE_COLUMNS, sample.properties.T.copy()))
    np.savez_compressed(
        path,
        index=sample.index.astype(np.int32),
        num_atoms=sample.num_atoms.astype(np.uint8),
        z=sample.z.astype(np.uint8),
        pos=sample.pos.astype(np.float32),
        smiles=np.array([smiles.encode() for smiles in sample.smiles]),
        **properties,
    )
