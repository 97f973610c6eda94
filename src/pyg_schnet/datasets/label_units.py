r"""Units of the labels of a data set, as the user gives them."""

from collections.abc import Mapping

from torch_geometric.data import Data

from ..data.units import convert, exchange

# Units that must be known, each with one of its kind.
_KINDS = {"pos": "Ang", "energy": "eV", "force": "eV/Ang", "stress": "eV/Ang^3"}


def all_units(data: Data, units: Mapping[str, str]) -> dict[str, str]:
    """Units of all fields, as given or as they follow from others."""
    if unknown := [name for name in units if name not in data and name not in _KINDS]:
        raise ValueError(
            f"'units' has '{unknown[0]}', but the fields are {sorted(data.keys())}: name the field "
            "by 'labels', or leave the unit out"
        )
    known = {"pos": "Ang", **units}
    known["cell"] = known["pos"]
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


def mixed_energies(units: Mapping[str, str]) -> bool:
    """Whether a force or stress is in another unit of energy than the energy."""
    if "energy" not in units:
        return False
    derived = [units[name] for name in ("force", "stress") if name in units]
    return any(exchange(unit, units["energy"]) != unit for unit in derived)
