"""The calculator against finite differences of ASE, hand-made conversions, and fresh searches."""

import subprocess
import sys

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import Trajectory, read, write
from molecules import random_molecule, small_model

from pyg_schnet import Ensemble, SchNet, SchNetCalculator
from pyg_schnet.data import from_ase, to_ase

RESULTS = {"energy", "free_energy", "energies", "forces"}


def calculator(dtype=torch.float32, calc=None, **overrides) -> SchNetCalculator:
    return SchNetCalculator(small_model(units="eV", **overrides).to(dtype), **(calc or {}))


def salt(scale=1.0) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=4.4).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]]), True)
    atoms.numbers = np.where(atoms.numbers == 11, 6, 8)
    return atoms


def shaken(steps: int, atoms: Atoms, seed=0, size=0.15):
    """A random walk."""
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        atoms.positions += size * generator.uniform(-1, 1, atoms.positions.shape)
        yield atoms


@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("envelope", ["cosine", "none"])
def test_molecule_against_finite_differences(readout, envelope):
    atoms = molecule("CH3CH2OH")
    cutoff = 30.0 if envelope == "none" else 4.0
    atoms.calc = calculator(torch.float64, envelope=envelope, cutoff=cutoff, readout=readout)
    forces = atoms.get_forces()
    assert set(atoms.calc.results) == RESULTS
    assert np.allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energies().shape == (9,)
    assert atoms.get_potential_energies().sum() == pytest.approx(energy, rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == energy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crystal_against_finite_differences(dtype):
    atoms = salt()
    atoms.calc = calculator(dtype)
    stress = atoms.get_stress()
    assert set(atoms.calc.results) == RESULTS | {"stress"}
    assert np.abs(stress).min() > 5e-4  # all six say something
    fine = dtype == torch.float64
    eps, tolerance = (1e-5, 1e-7) if fine else (1e-3, 2e-4)
    assert np.allclose(stress, calculate_numerical_stress(atoms, eps=eps), atol=tolerance)
    eps, tolerance = (1e-4, 1e-6) if fine else (1e-2, 5e-3)
    assert np.allclose(
        atoms.get_forces(), calculate_numerical_forces(atoms, eps=eps), atol=tolerance
    )


def test_slab_has_a_stress_if_it_has_a_volume():
    atoms = fcc111("Al", (1, 1, 2), a=4.0, vacuum=4.0, periodic=False)
    atoms.numbers[:] = 6
    atoms.calc = calculator(torch.float64, cutoff=3.5)
    assert np.allclose(
        atoms.get_stress(),
        calculate_numerical_stress(atoms, eps=1e-5, force_consistent=True),
        atol=1e-7,
    )
    atoms.cell[2] = 0.0
    energy = atoms.get_potential_energy()
    assert "stress" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        atoms.get_stress()
    assert atoms.get_potential_energy() == energy


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        ("kcal/mol", ase.units.kcal / ase.units.mol),
        ("Hartree", ase.units.Hartree),
        ("meV", 1e-3),
        ("eV", 1.0),
    ],
)
def test_units(units, factor):
    model = small_model(units=units).float()
    atoms = salt()
    atoms.calc = SchNetCalculator(model)
    data = from_ase(atoms, dtype=torch.float64)
    energy = model.predict(data)["energy"].item()
    assert atoms.get_potential_energy() == pytest.approx(factor * energy, rel=1e-6)
    raw = atoms.calc.model.predict(data, stress=True)  # with the tables of the calculator
    for actual, expected in (
        (atoms.get_forces(), factor * raw["forces"].numpy()),
        (atoms.get_stress(voigt=False), factor * raw["stress"][0].numpy()),
    ):
        assert np.allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())


def test_units_must_be_known_and_agree():
    model = small_model()
    with pytest.raises(ValueError, match=r"units='kcal/mol'"):
        SchNetCalculator(model)
    with pytest.raises(ValueError, match="unknown unit 'horsepower'"):
        SchNetCalculator(model, units="horsepower")
    with pytest.raises(ValueError, match="cannot convert 'Ang' to 'eV'"):
        SchNetCalculator(model, units="Ang")
    model.units = "eV"
    with pytest.raises(ValueError, match="in eV, not in meV"):
        SchNetCalculator(model, units="meV")


@pytest.mark.parametrize("kind", ["crystal", "large molecule", "wrapped crystal"])
def test_skin_changes_nothing_but_the_number_of_searches(kind):
    """Along a random walk, against a search in every step."""
    atoms = to_ase(random_molecule(120)) if kind == "large molecule" else salt()
    generator = np.random.default_rng(0)
    kept = calculator(calc={"skin": 1.0, "domain": "ignore"})
    fresh = calculator(calc={"skin": 0.0, "domain": "ignore"})
    assert fresh._neighbors is None
    for _ in shaken(20, atoms, size=0.05):
        moved = atoms
        if kind == "wrapped crystal":
            moved = atoms.copy()
            moved.positions += generator.integers(2, size=(len(atoms), 3)) @ atoms.cell.array
        kept.calculate(moved)
        fresh.calculate(atoms)
        assert kept.results["energy"] == pytest.approx(fresh.results["energy"], rel=1e-7)
        assert np.allclose(kept.results["forces"], fresh.results["forces"], atol=1e-4)
        if "crystal" in kind:
            assert np.allclose(kept.results["stress"], fresh.results["stress"], atol=1e-5)
    assert 1 <= kept._neighbors.builds < 10


def test_another_system_or_cell_is_noticed():
    calc = calculator()
    for atoms in (salt(), molecule("H2O"), salt().repeat((1, 2, 1)), bulk("C")):
        for cell in (atoms.cell.array, 1.03 * atoms.cell.array):
            atoms.set_cell(cell, scale_atoms=True)
            atoms.calc = calc
            expected = calculator(calc={"skin": 0.0})
            expected.calculate(atoms)
            assert atoms.get_potential_energy() == pytest.approx(expected.results["energy"])
            assert np.allclose(atoms.get_forces(), expected.results["forces"], atol=1e-5)


def test_computes_once_per_structure(monkeypatch):
    atoms, calls = molecule("H2O"), []
    atoms.calc = calculator()
    compute = SchNetCalculator.calculate
    monkeypatch.setattr(
        SchNetCalculator, "calculate", lambda self, *args: calls.append(1) or compute(self, *args)
    )
    before = atoms.get_forces()
    atoms.get_potential_energy(), atoms.get_potential_energies(), atoms.get_forces()
    assert len(calls) == 1
    atoms.positions[0, 0] += 1e-9  # small, and no less a change
    assert not np.array_equal(atoms.get_forces(), before)
    assert len(calls) == 2
    atoms.numbers[0] = 7
    atoms.get_forces()
    atoms.pbc, atoms.cell = True, [9, 9, 9]
    atoms.get_forces()
    atoms.cell[0, 0] = 8.0
    atoms.get_forces()
    assert len(calls) == 5


def test_results_are_the_callers_own():
    atoms = molecule("H2O")
    atoms.calc = calculator()
    forces = atoms.get_forces()
    expected = forces.copy()
    forces[:] = 7.0
    assert np.array_equal(atoms.get_forces(), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_gradients(context, dtype):
    atoms, expected = salt(), calculator(dtype)
    expected.calculate(atoms)
    with context():
        calc = calculator(dtype)
        calc.calculate(atoms)
        assert np.allclose(calc.results["forces"], expected.results["forces"], atol=1e-6)


def test_precision_and_a_model_in_training():
    """Double precision is that of the filters too; the model of the user stays as it is."""
    model = small_model(units="eV").float().train()
    atoms = molecule("CH3CH2OH")
    forces = {}
    for dtype in (None, torch.float32, torch.float64):
        calc = SchNetCalculator(model, dtype=dtype)
        calc.calculate(atoms)
        forces[dtype] = calc.results["forces"]
    assert np.array_equal(forces[None], forces[torch.float32])
    assert 1e-9 < np.abs(forces[None] - forces[torch.float64]).max() < 1e-3
    exact = small_model(units="eV").float().double()
    expected = exact.predict(from_ase(atoms, dtype=torch.float64))["forces"].numpy()
    assert np.allclose(forces[torch.float64], expected, atol=1e-10)
    assert model.training
    assert model.embedding.weight.dtype == torch.float32
    assert model.embedding.weight.requires_grad
    before = SchNetCalculator(model)
    torch.nn.init.zeros_(model.readout.lin2.weight)
    before.calculate(atoms)
    assert np.array_equal(before.results["forces"], forces[None])


@pytest.mark.filterwarnings("ignore:.*neighbo.*:UserWarning")
def test_models_that_choose_their_neighbours():
    """No list is kept for them, since it would give them other neighbours."""

    def first_two(pos, batch):
        edges = torch.tensor([[0, 1], [1, 0]])
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=1)

    atoms = to_ase(random_molecule(120))
    for overrides in ({"interaction_graph": first_two}, {"max_num_neighbors": 3}):
        model = small_model(units="eV", **overrides)
        atoms.calc = SchNetCalculator(model, domain="ignore")
        expected = model.predict(from_ase(atoms, dtype=torch.float64))["forces"]
        assert np.allclose(atoms.get_forces(), expected.numpy(), atol=1e-9)


def test_from_checkpoint(tmp_path):
    models = [SchNet(8, 8, 1, cutoff=4.0, units="kcal/mol") for _ in range(2)]
    for name, model in zip("ab", models):
        model.save(tmp_path / name / "best.safetensors")
    atoms = molecule("H2O")
    atoms.calc = SchNetCalculator.from_checkpoint(tmp_path / "a")
    one = atoms.get_potential_energy()
    assert one == pytest.approx(SchNetCalculator(models[0]).get_potential_energy(atoms))
    atoms.calc = SchNetCalculator.from_checkpoint(
        str(tmp_path / "b" / "best.safetensors"), dtype=torch.float64
    )
    two = atoms.get_potential_energy()
    atoms.calc = SchNetCalculator.from_checkpoint([tmp_path / "a", tmp_path / "b"])
    assert isinstance(atoms.calc.model, Ensemble)
    assert atoms.get_potential_energy() == pytest.approx((one + two) / 2, rel=1e-5)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SchNetCalculator.from_checkpoint(tmp_path / "nowhere")


def test_ensemble(tmp_path):
    models = [small_model(units="kcal/mol").float() for _ in range(3)]
    for k, model in enumerate(models):
        torch.manual_seed(k)
        model.reset_parameters()
    atoms = salt()
    atoms.calc = SchNetCalculator(Ensemble(models))
    single = []
    for model in models:
        single.append(SchNetCalculator(model))
        single[-1].calculate(atoms)
    atoms.get_stress()
    for name in ("energy", "forces", "energies", "stress"):
        values = np.array([calc.results[name] for calc in single])
        expected = values.mean(axis=0), values.std(axis=0, ddof=1)
        assert np.allclose(atoms.calc.results[name], expected[0], rtol=1e-5, atol=1e-6)
        assert np.allclose(atoms.calc.results[f"{name}_std"], expected[1], rtol=1e-4, atol=1e-6)
    spread = atoms.calc.get_property("forces_std", atoms)
    assert spread.shape == (len(atoms), 3)
    # ASE writes what it knows.
    with Trajectory(tmp_path / "a.traj", "w", atoms) as trajectory:
        trajectory.write()
    write(tmp_path / "a.xyz", atoms)
    for name in ("a.traj", "a.xyz"):
        again = read(tmp_path / name)
        assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        assert np.allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)
    assert "forces" in atoms.get_properties(["energy", "forces"])


def test_no_calculator_of_what_is_no_energy():
    with pytest.raises(ValueError, match="target is 'mu'"):
        SchNetCalculator(small_model(dipole=True, target="mu", units="Debye"))
    with pytest.raises(TypeError, match="got Linear"):
        SchNetCalculator(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"float16"):
        calculator(calc={"dtype": torch.float16})
    with pytest.raises(ValueError, match=r"'domain'.*'shout'"):
        calculator(calc={"domain": "shout"})
    with pytest.raises(ValueError, match=r"'skin'.*-1"):
        calculator(calc={"skin": -1.0})


def test_ase_is_optional():
    program = """
import sys
import pyg_schnet
assert "ase" not in sys.modules
sys.modules["ase"] = None
try:
    pyg_schnet.SchNetCalculator
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install pyg-schnet[ase]" in done.stdout, done.stderr
