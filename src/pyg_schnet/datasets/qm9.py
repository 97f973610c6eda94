r"""QM9 from the archive of its authors."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from .download import RemoteFile, verify
from .molecules import check_cutoff
from .qm9_properties import QM9Properties, RawMolecules
from .qm9_xyz import read_archive, read_uncharacterized


class QM9(QM9Properties):
    r"""QM9, from `Quantum chemistry structures and properties of 134 kilo molecules
    <https://doi.org/10.1038/sdata.2014.22>`_ (Ramakrishnan et al., Sci. Data 1, 140022, 2014).

    130,831 organic molecules with up to nine C, N, O and F atoms at their minimum of energy, with
    19 properties from B3LYP/6-31G(2df,p). Coordinates come from the original xyz files, rounded to
    float32 only: to 1e-7 angstrom, where the SDF file of other copies has 1e-4. The 3,054 molecules
    whose geometry does not fit their SMILES are left out.

    Targets have the order and units of :class:`torch_geometric.datasets.QM9`:

    ===== ======================= ============================================ ==========
    0     ``mu``                  dipole moment                                Debye
    1     ``alpha``               isotropic polarizability                     Bohr^3
    2-4   ``homo lumo gap``       orbital energies and their difference        eV
    5     ``r2``                  electronic spatial extent                    Bohr^2
    6     ``zpve``                zero-point vibrational energy                eV
    7     ``U0``                  internal energy at 0 K                       eV
    8-10  ``U H G``               internal energy, enthalpy, free energy at    eV
                                  298.15 K
    11    ``Cv``                  heat capacity at 298.15 K                    cal/mol/K
    12-15 ``U0_atom`` ...         atomization energies: 7-10 minus those of    eV
          ``G_atom``              the free atoms, see :meth:`atomref`
    16-18 ``A B C``               rotational constants                         GHz
    ===== ======================= ============================================ ==========

    Each molecule with N atoms has

    - ``z`` ``[N]`` int64, atomic numbers, and ``pos`` ``[N, 3]`` float32, positions in angstrom;
    - ``y`` ``[1, 19]`` float64: the total energies need more digits than float32 has;
    - ``idx`` ``[1]`` int64, its number in GDB-9 counted from 0; ``name``, such as ``"gdb_1"``, with
      that number counted from 1; ``smiles``, as in GDB-17;
    - with ``cutoff``: ``edge_index`` ``[2, E]``, distances ``edge_weight`` ``[E]`` in angstrom and
      ``cutoff`` ``[1]``, as from :class:`~pyg_schnet.graph.RadiusGraph`. Chemical bonds are not
      part of it.

    Args:
        root: Folder of the data set; files are downloaded to ``root/raw``.
        transform: Applied to a molecule at each access.
        pre_transform: Applied to each molecule once, before the data set is saved.
        pre_filter: Which molecules to keep.
        force_reload: Process the raw files again.
        cutoff: Radius in angstrom of the graphs that the molecules come with (``math.inf``: all
            pairs); without it they have no edges. Computed when loading, not saved.

    Raises:
        RuntimeError: If a file cannot be downloaded; says what to do by hand.
        ValueError: If a raw file is damaged or not the one expected.
    """

    num_molecules: ClassVar[int] = 133_885
    num_uncharacterized: ClassVar[int] = 3_054
    archive: ClassVar[RemoteFile] = RemoteFile(
        name="dsgdb9nsd.xyz.tar.bz2",
        urls=(
            "https://ndownloader.figshare.com/files/3195389",
            "https://springernature.figshare.com/ndownloader/files/3195389",
        ),
        size=86_144_227,
        md5="ad1ebd51ee7f5b3a6e32e974e5d54012",
    )
    uncharacterized: ClassVar[RemoteFile] = RemoteFile(
        name="uncharacterized.txt",
        urls=(
            "https://ndownloader.figshare.com/files/3195404",
            "https://springernature.figshare.com/ndownloader/files/3195404",
        ),
        md5="a361887bacb427b8a0ce7903d92a53b4",
    )

    def __init__(
        self,
        root: str | Path,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        force_reload: bool = False,
        *,
        cutoff: float | None = None,
    ):
        check_cutoff(cutoff)
        super().__init__(str(root), transform, pre_transform, pre_filter, force_reload=force_reload)
        self._hold(*self._load_processed(), self.published_units, cutoff=cutoff)

    @property
    def raw_file_names(self) -> list[str]:
        """The archive of molecules and the list of those to leave out."""
        return [self.archive.name, self.uncharacterized.name]

    @property
    def processed_file_names(self) -> str:
        """The molecules, collated; the number changes whenever the content does."""
        return "qm9_v1.pt"

    def download(self) -> None:
        """Fetches the raw files that are not there."""
        self._fetch(self.archive)
        self._fetch(self.uncharacterized, self._read_uncharacterized)

    def process(self) -> None:
        """Turns the raw files into one file of collated molecules."""
        self._save_processed(*self._collate_raw(self._read()))

    def _read(self) -> RawMolecules:
        """All molecules but the uncharacterized, in the order of GDB-9."""
        excluded = self._read_raw(self.uncharacterized, self._read_uncharacterized)
        molecules = self._read_raw(self.archive, self._read_archive)
        order = np.argsort(molecules.index)
        return molecules.take(order[~np.isin(molecules.index[order], excluded)])

    def _read_archive(self, path: Path) -> RawMolecules:
        # However it came there: a damaged archive is not worth the time to read it.
        verify(path, self.archive.size, self.archive.md5)
        molecules = read_archive(path)
        different = np.unique(molecules.index)
        if not (
            len(molecules.index) == len(different)
            and np.array_equal(different, np.arange(1, self.num_molecules + 1))
        ):
            raise ValueError(
                f"'{path}' must hold the molecules 1 to {self.num_molecules}, once each "
                f"(got {len(molecules.index)}, {len(different)} of them different)"
            )
        return molecules

    def _read_uncharacterized(self, path: Path) -> np.ndarray:
        return read_uncharacterized(path, self.num_uncharacterized, self.num_molecules)
