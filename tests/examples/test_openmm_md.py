"""OpenMM and the model agree on units, and conserve energy."""

import importlib.util

import numpy as np
import pytest
import torch
from example_runs import EXAMPLES, run_example
from molecules import random_molecule, small_model

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample

openmm = pytest.importorskip("openmm", reason="needs OpenMM: pip install pyg-schnet[openmm]")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("openmm_md", EXAMPLES / "openmm_md.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_units(example):
    """Hand-converted energies, and forces as differences of OpenMM's own energies."""
    molecule = random_molecule(6)
    model = small_model(units="kcal/mol")
    potential = example.Potential(model, molecule.z)
    context, _ = example.make_simulation(potential, molecule.pos, 0.5, 300.0, seed=1)
    unit = openmm.unit.kilojoule_per_mole

    def energy(pos) -> float:
        context.setPositions(pos.numpy() / 10.0)
        return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit)

    expected = float(model.predict(molecule, forces=False)["energy"])
    assert energy(molecule.pos) == pytest.approx(4.184 * expected, rel=1e-9)
    forces = context.getState(forces=True).getForces(asNumpy=True)
    forces = forces.value_in_unit(unit / openmm.unit.nanometer)
    for atom, axis in ((0, 0), (5, 2)):
        step = torch.zeros_like(molecule.pos)
        step[atom, axis] = 1e-3  # A, of 10 to the nm
        slope = (energy(molecule.pos + step) - energy(molecule.pos - step)) / 2e-4
        assert -slope == pytest.approx(
            forces[atom, axis], rel=1e-4, abs=1e-4 * np.abs(forces).max()
        )


def test_needs_units(example):
    with pytest.raises(ValueError, match=r"set 'model.units'"):
        example.Potential(small_model(), torch.tensor([1]))


def test_energy_is_conserved(example):
    """It swings by an error of second order in the timestep, which no wrong force would give."""
    frame = MD17Sample("ethanol", train=False)[0]
    potential = example.Potential(SchNet.from_pretrained("md17-ethanol"), frame.z)
    swings = []
    for timestep in (0.5, 0.25):
        context, integrator = example.make_simulation(potential, frame.pos, timestep, 300.0, seed=1)
        energies = []
        for _ in range(100):
            integrator.step(3)
            energies.append(example.total_energy(context))
        swings.append(1e3 * np.std(energies) / len(frame.z))
    assert 0 < swings[0] < 0.3  # meV per atom
    assert swings[1] < 0.4 * swings[0]


def test_end_to_end(tmp_path):
    result = run_example("openmm_md.py", "--num-steps", "50", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "step     50: total energy swings by" in result.stdout
