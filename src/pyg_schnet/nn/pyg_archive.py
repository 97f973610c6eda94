r"""The networks for QM9 that PyG's :meth:`torch_geometric.nn.SchNet.from_qm9_pretrained` offers.

The archive, ``trained_schnet_models.zip``, holds for each property a whole model that SchNetPack of
2019 pickled. PyG unpickles them with that package installed; here they are read as data.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.units import BOHR
from ..storage import CorruptFileError
from .convert_schnetpack import from_schnetpack
from .pickles import load_records
from .readout import DipoleReadout

_DEBYE = 0.20819434  # elementary charges times angstrom, CODATA 2014, as in ASE


class _Property(NamedTuple):
    """A property of QM9: its name in the archive, the target here, and its unit in the archive's.

    The archive counts in eV, angstrom and elementary charges.
    """

    folder: str
    target: str
    units: str
    scale: float = 1.0


# In the order of PyG's targets.
_PROPERTIES = {
    "mu": _Property("dipole_moment", "mu", "Debye", _DEBYE),
    "alpha": _Property("isotropic_polarizability", "alpha", "Bohr^3", BOHR**3),
    "homo": _Property("homo", "homo", "eV"),
    "lumo": _Property("lumo", "lumo", "eV"),
    "gap": _Property("gap", "gap", "eV"),
    "r2": _Property("electronic_spatial_extent", "r2", "Bohr^2", BOHR**2),
    "zpve": _Property("zpve", "zpve", "eV"),
    "U0": _Property("energy_U0", "energy", "eV"),
    "U": _Property("energy_U", "U", "eV"),
    "H": _Property("enthalpy_H", "H", "eV"),
    "G": _Property("free_energy", "G", "eV"),
    "Cv": _Property("heat_capacity", "Cv", "cal/mol/K"),
}


@torch.no_grad()
def from_pyg_archive(cls: Any, path: str | Path, target: int | str) -> Any:
    """Reads a network for QM9, see :meth:`SchNet.from_pyg_archive`."""
    names = list(_PROPERTIES)
    if isinstance(target, int) and 0 <= target < len(names):
        target = names[target]
    if target not in _PROPERTIES:
        raise ValueError(f"'target' must be 0 to 11 or one of {names} (got {target!r})")
    wanted = _PROPERTIES[str(target)]
    source = load_records(_find(Path(path), f"qm9_{wanted.folder}"))
    model = from_schnetpack(cls, source, target=wanted.target, units=wanted.units)
    if isinstance(model.readout, DipoleReadout):
        model.readout.lin2.weight /= wanted.scale
        model.readout.lin2.bias /= wanted.scale
        return model
    offsets = model.readout.offsets
    offsets.set(*(v / wanted.scale for v in (offsets.mean, offsets.std, offsets.atomref)))
    return model


def _find(path: Path, folder: str) -> Path | io.BytesIO:
    """The model in the archive, or in the folder that it was unpacked to."""
    if path.is_dir():
        for candidate in (path / folder, path / "trained_schnet_models" / folder):
            if (candidate / "best_model").is_file():
                return candidate / "best_model"
        raise FileNotFoundError(f"there is no '{folder}/best_model' in '{path}'")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file '{path}': download "
            "http://www.quantum-machine.org/datasets/trained_schnet_models.zip"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is not a zip archive: give trained_schnet_models.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"{folder}/best_model"):
                    return io.BytesIO(archive.read(name))
    except Exception as error:  # damage shows in many ways
        raise CorruptFileError(f"'{path}' is damaged ({error}): fetch it again") from error
    raise FileNotFoundError(f"there is no '{folder}/best_model' in '{path}'")
