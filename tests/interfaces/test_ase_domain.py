"""Structures outside the domain of a model, and results that are not finite, by the calculator."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from molecules import small_model

from pyg_schnet import Ensemble, SchNet, SchNetCalculator


def test_outside_the_domain():
    model = small_model(units="eV").float()
    model.species[:] = False
    model.species[[1, 8]] = True
    atoms = molecule("H2O")
    atoms.calc = SchNetCalculator(model)
    atoms.get_forces()
    atoms.numbers[1] = 9
    with pytest.raises(ValueError, match="not trained on atomic number 9"):
        atoms.get_forces()
    assert atoms.calc.results == {}  # none of the structure before
    atoms.calc.calculate(molecule("H2O"))
    with pytest.raises(ValueError, match="number 9"):
        atoms.calc.calculate(atoms)
    assert atoms.calc.results == {}
    for number in (0, -(2**63)):
        atoms.numbers[1] = number
        with pytest.raises(ValueError, match=rf"at least 1 .got {number}"):
            atoms.get_forces()
    atoms.numbers[1] = 1
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(ValueError, match="same place"):
        atoms.get_forces()
    atoms.positions[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        atoms.get_forces()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beyond_the_range_of_filters_without_envelope(dtype):
    atoms = Atoms("HO", positions=[[0, 0, 0], [0, 0, 5.9]])
    atoms.calc = SchNetCalculator(small_model(units="eV", envelope="none", cutoff=6.0).to(dtype))
    atoms.get_forces()
    atoms.positions[1, 2] = 6.1
    with pytest.raises(ValueError, match="6"):
        atoms.get_forces()


@pytest.mark.parametrize("periodic", [False, True])
def test_collisions(periodic):
    atoms = Atoms("OHC", positions=[[0, 0, 0], [0, 0, 0.49], [2.0, 0, 0]])  # 0.485 is half the sum
    if periodic:
        atoms.pbc, atoms.cell = True, [5.0, 5.0, 5.0]
        atoms.positions[1, 2] -= 5.0
    atoms.calc = SchNetCalculator(small_model(units="eV").float(), domain="raise")
    energy = atoms.get_potential_energy()  # as close as may be
    atoms.positions[1, 2] -= 0.01
    with pytest.raises(ValueError, match=r"atoms 0 .Z = 8. and 1 .Z = 1. are 0.480 A apart"):
        atoms.get_potential_energy()
    atoms.calc.domain = "warn"
    with pytest.warns(UserWarning, match=r"said once"):
        atoms.get_potential_energy()
    atoms.positions[1, 2] -= 0.01
    assert atoms.get_potential_energy() != energy
    atoms.calc = SchNetCalculator(small_model(units="eV").float(), domain="ignore")
    atoms.get_potential_energy()


def test_closer_than_in_training():
    model = small_model(units="eV").float()
    for z, w, distance in ((1, 8, 0.9), (1, 1, 1.4)):
        model.closest[z, w] = model.closest[w, z] = distance
    other = small_model(units="eV", hidden_channels=16).float()
    other.closest[:] = 0.5
    atoms = Atoms("OHH", positions=[[0, 0, 0], [0, 0, 0.82], [0, 1.4, 0]])
    for tried in (model, Ensemble([other, model])):
        atoms.positions[1, 2] = 0.82
        atoms.calc = SchNetCalculator(tried, domain="raise")
        forces = atoms.get_forces()
        atoms.positions[1, 2] = 0.80
        with pytest.raises(ValueError, match=r"less than 0.9 of the closest .*0.900 A"):
            atoms.get_forces()
        assert atoms.calc.results == {}
        atoms.calc.domain = "warn"
        with pytest.warns(UserWarning, match="said once"):
            assert not np.array_equal(atoms.get_forces(), forces)
    with pytest.raises(ValueError, match="'domain'"):
        atoms.calc.domain = "shout"


@pytest.mark.parametrize("where", ["weights", "references"])
def test_never_gives_what_is_not_finite(where):
    model = small_model(units="eV").float()
    atoms = molecule("H2O")
    atoms.calc = SchNetCalculator(model)
    atoms.get_forces()
    if where == "weights":
        model.embedding.weight.data[8] = float("nan")
    else:
        model.readout.offsets.atomref[8] = float("inf")
    atoms.calc = SchNetCalculator(model)
    for _ in range(2):
        with pytest.raises(CalculationFailed, match="not finite"):
            atoms.get_forces()
    assert atoms.calc.results == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("many", [False, True])
def test_compositions_that_training_tells_nothing_of(dtype, many):
    model = SchNet.from_pretrained("md17-ethanol")
    if many:
        other = SchNet.from_pretrained("md17-ethanol")
        other.unseen.zero_()
        model = Ensemble([other, model])
    ethanol, methane = molecule("CH3CH2OH"), molecule("CH4")
    calculator = SchNetCalculator(model, dtype=dtype)
    ethanol.calc = methane.calc = calculator
    ethanol.get_forces()
    with pytest.warns(UserWarning, match="CH4 is no .*its forces are not .*once of each"):
        methane.get_forces()
    for _ in range(2):  # and no more, since warnings are errors
        methane.rattle(0.01, seed=1)
        methane.get_forces()
        ethanol.get_forces()
    calculator.domain = "raise"
    ethanol.get_potential_energy()
    with pytest.raises(ValueError, match="composition CH4"):
        methane.get_potential_energy()
    assert calculator.results == {}
    calculator.domain = "ignore"
    methane.get_potential_energy()
