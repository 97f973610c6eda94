import math

import numpy as np
import pytest
import torch

from pyg_schnet.data.units import HARTREE, convert, exchange


@pytest.mark.parametrize(
    ("from_unit", "to_unit", "factor"),
    [
        # NIST, CODATA 2018
        ("Hartree", "eV", 27.211386245988),
        ("Hartree", "kJ/mol", 2625.4996394799),
        ("Hartree", "kcal/mol", 627.5094740631),
        ("Bohr", "Ang", 0.529177210903),
        ("eV", "kJ/mol", 96.48533212331),
        # by hand from these
        ("kcal/mol", "meV", 43.36410424),
        ("Hartree/Bohr", "eV/Ang", 51.42206747),
        ("kcal/mol/Ang", "kJ/mol/Bohr", 4.184 * 0.529177210903),
        ("eV/Ang^3", "eV/Bohr^3", 0.529177210903**3),
        ("Bohr^3", "Ang^3", 0.529177210903**3),
        ("eV/Ang/Ang^2", "eV/Ang^3", 1.0),
    ],
)
def test_factors(from_unit: str, to_unit: str, factor: float) -> None:
    assert convert(1.0, from_unit, to_unit) == pytest.approx(factor, rel=1e-9)
    assert convert(factor, to_unit, from_unit) == pytest.approx(1.0, rel=1e-9)


def test_hartree_is_that_of_pyg() -> None:
    from torch_geometric.datasets.qm9 import HAR2EV

    assert HARTREE == HAR2EV


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    energy = torch.tensor([1.0, 2.0], dtype=dtype)
    torch.testing.assert_close(
        convert(energy, "eV", "meV"), torch.tensor([1000.0, 2000.0], dtype=dtype)
    )
    assert convert(np.ones(2, dtype=np.float32), "eV", "meV").dtype == np.float32
    assert math.isclose(convert(2.0, "eV", "eV"), 2.0)


@pytest.mark.parametrize(
    "unit", ["ev", "kcal", "mol", "", "/Ang", "eV/", "eV/mol", "Ang^0", "eV^2"]
)
def test_unknown_unit(unit: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown unit '.*{unit[-2:]}.*'.*eV, meV, Hartree".replace("^", r"\^")
    ):
        convert(1.0, unit, "eV")


@pytest.mark.parametrize(
    ("from_unit", "to_unit"),
    [("eV", "Ang"), ("eV/Ang", "eV"), ("Bohr^2", "Bohr"), ("eV", "eV/Ang")],
)
def test_incompatible_units(from_unit: str, to_unit: str) -> None:
    with pytest.raises(ValueError, match="cannot convert"):
        convert(1.0, from_unit, to_unit)


@pytest.mark.parametrize(
    ("unit", "energy", "length", "expected"),
    [
        ("kcal/mol", "eV", None, "eV"),
        ("kcal/mol", None, "Bohr", "kcal/mol"),
        ("kcal/mol/Ang", "eV", None, "eV/Ang"),
        ("kcal/mol/Ang", None, "Bohr", "kcal/mol/Bohr"),
        ("eV/Ang^3", "kJ/mol", "Bohr", "kJ/mol/Bohr^3"),
        ("Bohr^3", "eV", "Ang", "Ang^3"),
        ("eV/Ang/Ang^2", None, "Bohr", "eV/Bohr/Bohr^2"),
        ("Debye", "eV", "Bohr", "Debye"),
        ("cal/mol/K", "eV", "Bohr", "cal/mol/K"),
        ("Debye/Ang", None, "Bohr", "Debye/Ang"),
    ],
)
def test_exchange(unit: str, energy: str | None, length: str | None, expected: str) -> None:
    assert exchange(unit, energy, length) == expected


@pytest.mark.parametrize("wanted", [{"energy": "Ang"}, {"length": "eV"}, {"length": "Ang^2"}])
def test_exchange_of_kinds(wanted: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot convert"):
        exchange("Debye", **wanted)
