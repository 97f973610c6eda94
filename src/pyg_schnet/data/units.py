r"""Units of energies, lengths and what is composed of them.

Everything is counted in eV and angstrom. The factors are those of CODATA 2018, in which the
Avogadro constant and the elementary charge are exact. Other programs differ in the ninth digit:
ASE keeps CODATA 2014 (Hartree = 27.211386024 eV), PyG has used the value of 2018 for the labels
of its QM9 since they were first converted. At the total energy of a QM9 molecule, 10 keV, the two
are 0.1 meV apart.
"""

import re
from typing import TypeVar

import numpy as np
from torch import Tensor

Value = TypeVar("Value", float, Tensor, np.ndarray)

EV = 1.0
MEV = 1e-3
# CODATA 2018 has 27.211386245988(53) eV; PyG writes ten digits, and labels should equal its.
HARTREE = 27.211386246
BOHR = 0.529177210903  # angstrom, CODATA 2018
ANGSTROM = 1.0
_AVOGADRO = 6.02214076e23  # 1/mol, exact since 2019
_ELEMENTARY_CHARGE = 1.602176634e-19  # C, exact since 2019
KJ_PER_MOL = 1e3 / (_AVOGADRO * _ELEMENTARY_CHARGE)
KCAL_PER_MOL = 4.184 * KJ_PER_MOL  # thermochemical calorie, 4.184 J

_ENERGIES = {
    "eV": EV,
    "meV": MEV,
    "Hartree": HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}
_LENGTHS = {"Ang": ANGSTROM, "Bohr": BOHR}
_LENGTH = re.compile(rf"({'|'.join(_LENGTHS)})(?:\^([1-9]))?")


def convert(value: Value, from_unit: str, to_unit: str) -> Value:
    r"""Converts energies, lengths, forces and stresses between units.

    Units are ``eV``, ``meV``, ``Hartree``, ``kcal/mol`` and ``kJ/mol`` of energy, ``Ang`` and
    ``Bohr`` of length, powers of a length such as ``Bohr^3``, and an energy over lengths such as
    ``kcal/mol/Ang`` (force) or ``eV/Ang^3`` (stress).

    Args:
        value: A number, tensor or array in ``from_unit``; its floating-point type is kept.
        from_unit: Unit to convert from.
        to_unit: Unit to convert to, of the same kind.

    Returns:
        The value in ``to_unit``.

    Raises:
        ValueError: If a unit is unknown, or if one cannot be converted to the other.

    >>> convert(1.0, "eV", "meV")
    1000.0
    >>> round(convert(1.0, "Hartree", "kcal/mol"), 4)
    627.5095
    >>> round(convert(1.0, "Hartree/Bohr", "eV/Ang"), 4)
    51.4221
    """
    from_factor, from_powers = _parse(from_unit)
    to_factor, to_powers = _parse(to_unit)
    if from_powers != to_powers:
        raise ValueError(
            f"cannot convert '{from_unit}' to '{to_unit}': one is {_kind(from_powers)}, "
            f"the other {_kind(to_powers)}"
        )
    return value * (from_factor / to_factor)


def exchange(unit: str, energy: str | None = None, length: str | None = None) -> str:
    r"""Writes a unit with another energy, another length, or both.

    Args:
        unit: A unit of any kind; one that :func:`convert` does not know is returned as it is.
        energy: Unit of energy to put in the place of that in ``unit``.
        length: Unit of length, likewise.

    Raises:
        ValueError: If ``energy`` is not a unit of energy, or ``length`` not one of length.

    >>> exchange("kcal/mol/Ang", energy="eV"), exchange("Bohr^3", length="Ang")
    ('eV/Ang', 'Ang^3')
    >>> exchange("Debye", energy="eV")
    'Debye'
    """
    for part, kind in ((energy, "eV"), (length, "Ang")):
        if part is not None:
            convert(1.0, part, kind)
    try:
        _parse(unit)
    except ValueError:
        return unit
    if unit in _ENERGIES:
        return energy or unit
    head, slash, tail = unit.rpartition("/")
    head = exchange(head, energy, length) if slash else head
    old_length, caret, power = tail.partition("^")
    return f"{head}{slash}{length or old_length}{caret}{power}"


def _parse(unit: str) -> tuple[float, tuple[int, int]]:
    """Factor to eV and angstrom, and the powers of energy and length."""
    if unit in _ENERGIES:
        return _ENERGIES[unit], (1, 0)
    # The slash of "kcal/mol" belongs to the energy: take lengths off the end, one at a time.
    head, slash, tail = unit.rpartition("/")
    length = _LENGTH.fullmatch(tail)
    if length is None or (slash and not head):
        raise ValueError(
            f"unknown unit '{unit}': energies are {', '.join(_ENERGIES)}; lengths are "
            f"{', '.join(_LENGTHS)}, also as 'Bohr^3'; energies over lengths are written "
            "'kcal/mol/Ang' or 'eV/Ang^3'"
        )
    power = int(length[2] or 1)
    factor = _LENGTHS[length[1]] ** power
    if not slash:
        return factor, (0, power)
    head_factor, (energy_power, length_power) = _parse(head)
    return head_factor / factor, (energy_power, length_power - power)


def _kind(powers: tuple[int, int]) -> str:
    kinds = {(1, 0): "an energy", (0, 1): "a length", (1, -1): "a force", (1, -3): "a stress"}
    energy, length = powers
    return kinds.get(powers, f"energy^{energy} length^{length}")
