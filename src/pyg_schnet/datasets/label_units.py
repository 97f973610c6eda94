r"""Units of the labels of a data set, as the user gives them."""

from collections.abc import Mapping

from torch_geometric.data import Data

from ..data.units import convert, exchange

# Units that must be known, each with one of its kind.
_LENGTHS = dict.fromkeys(("pos", "cell", "edge_weight", "cutoff"), "Ang")
_KINDS = {**_LENGTHS, "energy": "eV", "force": "eV/Ang", "stress": "eV/Ang^3"}


def given_units(
    units: Mapping[str, str] | None, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Units as the user gives them, in addition to those known without."""
    if not (units is None or isinstance(units, Mapping)):
        raise TypeError(
            "'units' says what unit each field is in, such as units={'energy': 'kcal/mol'} (got "
            f"{units!r}); the unit to convert to is 'energy'"
        )
    return {**(known or {}), **(units or {})}


def all_units(data: Data, units: Mapping[str, str]) -> dict[str, str]:
    """Units of all fields, as given or as they follow from others."""
    if unknown := [name for name in units if name not in data and name not in _KINDS]:
        raise ValueError(
            f"'units' has '{unknown[0]}', but the fields are {sorted(data.keys())}: name the field "
            "by 'labels', or leave the unit out"
        )
    known = {"pos": "Ang", **units}
    known = {**dict.fromkeys(_LENGTHS, known["pos"]), **known}
    for name, kind in _KINDS.items():
        if name not in known and "energy" in known:
            known[name] = f"{known['energy']}/{known['pos']}{'^3' if name == 'stress' else ''}"
        if name in known:
            convert(1.0, known[name], kind)
        elif name in data:
            raise ValueError(
                f"say what unit '{name}' is in, such as units={{'energy': 'kcal/mol'}}; forces and "
                "stress are per angstrom unless they have a unit of their own"
            )
    return {name: unit for name, unit in known.items() if name in data}


def model_units(units: Mapping[str, str]) -> dict[str, str]:
    """Units in which forces are derivatives of the energy by positions in angstrom.

    Labels that have nothing to do with these keep theirs.
    """
    energy = units.get("energy")
    return {
        name: exchange(unit, None if name == "energy" else energy, "Ang")
        if name in _KINDS
        else unit
        for name, unit in units.items()
    }
