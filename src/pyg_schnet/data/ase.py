r"""Molecules from and to ASE (`Larsen et al. 2017 <https://doi.org/10.1088/1361-648X/aa680e>`_).

Everything is in the units of ASE: eV and angstrom.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from .flat import FlatMolecules, LabelNames, label_names

if TYPE_CHECKING:
    from ase import Atoms

# Names of the labels that a model is trained on, here and in ASE.
_STANDARD = {"energy": "energy", "force": "forces", "stress": "stress"}
# Results of calculators with one row per atom.
_PER_ATOM = frozenset({"forces", "charges", "magmoms", "energies", "stresses"})
# Fields of Data that are made from the structure, or are no property of it.
_NOT_PROPERTIES = frozenset({"z", "pos", "cell", "pbc", "cutoff", "batch", "ptr", *_STANDARD})


def from_ase(
    atoms: "Atoms", *, labels: LabelNames | None = None, dtype: torch.dtype | None = None
) -> Data:
    r"""Makes a molecule from ``ase.Atoms``.

    Labels are looked up in the results of the calculator, then in ``info`` (per molecule) and
    ``arrays`` (per atom). No calculation is started; results of another structure than the present
    one do not count; forces are those on all atoms, whatever the constraints.

    Args:
        atoms: A molecule, or a periodic structure.
        labels: Fields of the result, each with its name in ``atoms``, such as
            ``{"energy": "REF_energy", "force": "REF_forces"}``; or names that stay the same.
            Without it, those of ``energy``, ``forces`` and ``stress`` that there are.
        dtype: Of all but ``energy`` and other numbers per molecule, which are float64;
            ``torch.get_default_dtype()`` if ``None``.

    Returns:
        A molecule of N atoms with

        - ``z`` ``[N]``, ``pos`` ``[N, 3]`` in angstrom;
        - if it is periodic in any direction: ``cell`` ``[1, 3, 3]``, rows are lattice vectors in
          angstrom, and ``pbc`` ``[1, 3]``;
        - labels: ``energy`` ``[1]`` in eV, ``force`` ``[N, 3]`` in eV/Ang, ``stress``
          ``[1, 3, 3]`` in eV/Ang^3 (six numbers are taken for ASE's xx yy zz yz xz xy), others
          ``[1, ...]`` or ``[N, ...]``.

    Raises:
        ValueError: If a named label is missing or has the wrong shape, if a position is not
            finite, an atomic number not 1 to 100, or a periodic direction without lattice vector.
        ImportError: If ASE is not installed.

    >>> from ase.build import bulk, molecule
    >>> from_ase(molecule("H2O"))
    Data(pos=[3, 3], z=[3])
    >>> from_ase(bulk("Cu")).cell.shape
    torch.Size([1, 3, 3])
    """
    flat = read_frames([atoms], labels, torch.get_default_dtype() if dtype is None else dtype)
    named = {k: v if isinstance(v, Tensor) else v[0] for k, v in flat.molecules.items()}
    return Data(**flat.atoms, **named)


def to_ase(data: Data) -> "Atoms | list[Atoms]":
    r"""Makes ``ase.Atoms`` of a molecule, or a list of them of a batch.

    ``energy``, ``force`` and ``stress`` go to a ``SinglePointCalculator`` unless they are missing
    (NaN); other fields with one row per atom go to ``arrays``, the rest to ``info``. Edges are left
    behind. Write files with ``ase.io.write(path, [to_ase(data) for data in dataset])``.

    Args:
        data: A molecule with ``z`` and ``pos`` in angstrom and eV, or a ``Batch``; data sets in
            other units have ``convert_units``.

    Raises:
        ValueError: If ``z``, ``pos`` or the ``cell`` of periodic data are missing, or if several
            molecules are no ``Batch``.
        ImportError: If ASE is not installed.

    >>> import torch
    >>> from torch_geometric.data import Data
    >>> to_ase(Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 0.74]])))
    Atoms(symbols='H2', pbc=False)
    """
    if not isinstance(data, Data):
        raise TypeError(f"expected a Data or Batch (got {type(data).__name__})")
    if isinstance(data, Batch):
        return [_to_atoms(molecule) for molecule in data.to_data_list()]
    return _to_atoms(data)


def _to_atoms(data: Data) -> "Atoms":
    ase = _import_ase()
    for name in ("z", "pos"):
        if not isinstance(data.get(name), Tensor):
            raise ValueError(
                f"the data must have '{name}', a tensor (the fields are {sorted(data.keys())})"
            )
    if data.batch is not None and data.batch.numel() > 0 and int(data.batch.max()) > 0:
        raise ValueError(
            "the data hold several molecules, by 'batch': put them together by "
            "Batch.from_data_list, which can take them apart again"
        )
    periodic: dict[str, np.ndarray] = {}
    pbc = torch.as_tensor(data.get("pbc", data.get("cell") is not None))
    if data.get("cell") is not None:
        periodic = {"cell": _numpy(data.cell).reshape(3, 3), "pbc": _numpy(pbc).reshape(-1)}
    elif pbc.any():
        raise ValueError("the data are periodic ('pbc' is set), but have no 'cell'")
    atoms = ase.Atoms(numbers=_numpy(data.z), positions=_numpy(data.pos), **periodic)
    for key, value in data.to_dict().items():
        if key in _NOT_PROPERTIES or "edge" in key or "bond" in key or value is None:
            continue
        if not isinstance(value, Tensor):
            atoms.info[key] = value
        elif value.dim() > 0 and value.size(0) == len(atoms) > 1:
            atoms.set_array(key, _numpy(value))
        else:
            atoms.info[key] = value.item() if value.numel() == 1 else _numpy(value.squeeze(0))
    results = _results_of(data)
    if results:
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read_frames(
    frames: Sequence["Atoms"],
    labels: LabelNames | None = None,
    dtype: torch.dtype = torch.float32,
) -> FlatMolecules:
    r"""Reads many ``ase.Atoms`` into flat tensors; see :func:`from_ase`.

    If any frame is periodic, all have ``cell`` and ``pbc``, zero and False where they are not.

    Raises:
        ValueError: As :func:`from_ase`, and if some frames have a label that others lack; names the
            frame.
    """
    ase = _import_ase()
    for i, atoms in enumerate(frames):
        if not isinstance(atoms, ase.Atoms):
            raise TypeError(f"expected ase.Atoms (got {type(atoms).__name__} as frame {i})")
    num_atoms = np.array([len(atoms) for atoms in frames], dtype=np.int64)
    if num_atoms.size == 0:
        raise ValueError("there is no frame")
    flat = FlatMolecules.of(
        num_atoms,
        np.concatenate([atoms.numbers for atoms in frames]),
        np.concatenate([atoms.positions for atoms in frames]),
        cell=np.array([atoms.cell.array for atoms in frames]),
        pbc=np.array([atoms.pbc for atoms in frames]),
        dtype=dtype,
        what="frame",
    )
    names = _STANDARD if labels is None else label_names(labels)
    for field, (values, per_atom) in _look_up(frames, names, labels is None).items():
        if field == "force":
            _check_shapes(field, values, [(int(n), 3) for n in num_atoms])
        elif per_atom:
            _check_shapes(field, values, [(int(n), *values[0].shape[1:]) for n in num_atoms])
        elif field == "energy":
            values = [value.squeeze() for value in values]
            _check_shapes(field, values, [()] * len(frames))
        elif field == "stress":
            values = [_full_stress(value, i, names[field]) for i, value in enumerate(values)]
        else:
            _check_shapes(field, values, [values[0].shape] * len(frames))
        together = np.concatenate(values) if per_atom else np.stack(values)
        if field in _STANDARD:
            together = _as_floats(field, together)
        flat.add(field, together if together.dtype.kind != "U" else together.tolist(), per_atom)
    return flat


def _look_up(
    frames: Sequence["Atoms"], names: Mapping[str, str], optional: bool
) -> dict[str, tuple[list[np.ndarray], bool]]:
    """Values of each label in all frames, and whether they have one row per atom."""
    found: dict[str, list[np.ndarray | None]] = {field: [] for field in names}
    per_atom: dict[str, bool] = {field: field == "force" for field in names}
    for atoms in frames:
        stores = _stores(atoms)
        for field, key in names.items():
            kind = next((k for k, store in stores.items() if store.get(key) is not None), None)
            found[field].append(None if kind is None else np.asarray(stores[kind][key]))
            if kind == "arrays" or (kind == "results" and key in _PER_ATOM):
                per_atom[field] = field not in ("energy", "stress")
    complete = {}
    for field, values in found.items():
        lacking = [i for i, value in enumerate(values) if value is None]
        if optional and len(lacking) == len(frames):
            continue
        if lacking:
            raise ValueError(_missing(frames, lacking, field, names[field]))
        complete[field] = ([value for value in values if value is not None], per_atom[field])
    return complete


def _stores(atoms: "Atoms") -> dict[str, Mapping[str, Any]]:
    """Where labels can be, by kind, in the order of preference."""
    results = getattr(atoms.calc, "results", None)
    info = atoms.info
    return {
        "results": results if results and _is_fresh(atoms) else {},
        "info": info,
        # These two are where ASE puts the columns of its databases.
        **{
            name: info[name] if isinstance(info.get(name), Mapping) else {}
            for name in ("key_value_pairs", "data")
        },
        "arrays": atoms.arrays,
    }


def keys_of(atoms: "Atoms") -> dict[str, list[str]]:
    """Names in ``info``, with the columns of a database, and in ``arrays``, without the atoms'."""
    stores = _stores(atoms)
    arrays = set(stores.pop("arrays")) - {"numbers", "positions"}
    info = set().union(*stores.values()) - {"key_value_pairs", "data"}
    return {"info": sorted(info), "arrays": sorted(arrays)}


def _is_fresh(atoms: "Atoms") -> bool:
    """Whether the results of the calculator are of this structure, and not of an earlier one."""
    # Exact as calc.check_state(atoms), which takes longer than reading a frame.
    then = getattr(atoms.calc, "atoms", None)
    return then is not None and all(
        np.array_equal(old, new)
        for old, new in (
            (then.positions, atoms.positions),
            (then.numbers, atoms.numbers),
            (then.cell.array, atoms.cell.array),
            (then.pbc, atoms.pbc),
        )
    )


def _missing(frames: Sequence["Atoms"], lacking: list[int], field: str, key: str) -> str:
    atoms = frames[lacking[0]]
    stores = _stores(atoms)
    there = sorted(set().union(*stores.values()) - {"key_value_pairs", "data"})
    stale = atoms.calc is not None and key in (getattr(atoms.calc, "results", None) or {})
    what = "is of another structure, since the atoms were changed" if stale else "is missing"
    rest = "" if len(lacking) == len(frames) else f", as in {len(lacking)} of {len(frames)} frames"
    return (
        f"'{key}' (for '{field}') {what} in frame {lacking[0]}{rest}: it has {there}. Name the "
        "labels that all frames have by 'labels', or leave frames out"
    )


def _check_shapes(field: str, values: list[np.ndarray], shapes: list[tuple[int, ...]]) -> None:
    for i, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        if value.shape != shape:
            raise ValueError(
                f"'{field}' of frame {i} must have shape {list(shape)} (got {list(value.shape)})"
            )


def _full_stress(stress: np.ndarray, frame: int, key: str) -> np.ndarray:
    if "virial" in key.lower():
        raise ValueError(
            f"'{key}' seems to be a virial, not a stress: in every frame set info['stress'] to "
            "-virial / atoms.get_volume() and name that"
        )
    if stress.shape == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        return voigt_6_to_full_3x3_stress(stress)
    if stress.size != 9:
        raise ValueError(
            f"'stress' of frame {frame} must have 6 or 3 x 3 numbers (got shape "
            f"{list(stress.shape)})"
        )
    full = stress.reshape(3, 3)
    if not np.allclose(full, full.T, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ValueError(f"'stress' of frame {frame} must be symmetric (got {full.tolist()})")
    return full


def _as_floats(field: str, values: np.ndarray) -> np.ndarray:
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{field}' must hold numbers (got {values.flat[0]!r})") from error


def _results_of(data: Data) -> dict[str, Any]:
    """Labels as arguments of SinglePointCalculator, without the missing ones."""
    results: dict[str, Any] = {}
    for field, name in _STANDARD.items():
        label = data.get(field)
        if label is None or bool(torch.as_tensor(label).isnan().any()):
            continue
        value = _numpy(torch.as_tensor(label)).astype(np.float64)
        if field == "energy":
            results[name] = value.item()
        elif field == "stress":
            from ase.stress import full_3x3_to_voigt_6_stress

            results[name] = full_3x3_to_voigt_6_stress(value.reshape(3, 3))
        else:
            results[name] = value
    return results


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _import_ase() -> Any:
    try:
        import ase
    except ImportError as error:
        raise ImportError("this needs the package ase: pip install pyg-schnet[ase]") from error
    return ase
