import sys

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from molecules import random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet.data import from_ase, to_ase
from pyg_schnet.data.ase import read_frames

# ASE's order of the six components of a stress.
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


def labelled(atoms: Atoms, seed: int = 0, **results) -> Atoms:
    rng = np.random.default_rng(seed)
    results = {"energy": -3.25, "forces": rng.normal(size=(len(atoms), 3)), **results}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def copper() -> Atoms:
    """A sheared cell with four atoms out of place, with labels of a real calculator."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]]))
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    atoms.get_forces(), atoms.get_stress()
    return atoms


def test_molecule():
    atoms = labelled(molecule("CH3OH"))
    data = from_ase(atoms, dtype=torch.float64)
    assert data.z.tolist() == atoms.numbers.tolist()
    assert data.z.dtype == torch.int64
    assert np.array_equal(data.pos.numpy(), atoms.positions)
    assert data.energy.dtype == torch.float64
    assert data.energy.tolist() == [-3.25]
    assert np.array_equal(data.force.numpy(), atoms.calc.results["forces"])
    assert sorted(data.keys()) == ["energy", "force", "pos", "z"]


def test_box_that_is_not_periodic_is_no_cell():
    assert sorted(from_ase(Atoms("He", cell=[5, 5, 5])).keys()) == ["pos", "z"]


def test_periodic():
    atoms = copper()
    data = from_ase(atoms, dtype=torch.float64)
    assert np.array_equal(data.cell[0].numpy(), atoms.cell.array)
    assert data.pbc.tolist() == [[True, True, True]]
    assert data.stress.shape == (1, 3, 3)
    for value, (i, j) in zip(atoms.get_stress(), VOIGT, strict=True):
        assert data.stress[0, i, j] == data.stress[0, j, i] == value


def test_stress_is_the_derivative_of_the_energy():
    """Positive where the structure would shrink: dE/d(strain) / V."""
    atoms, step = copper(), 1e-5
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strain = np.eye(3)
        strain[1, 1] += sign * step
        strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        strained.calc = EMT()
        energies.append(strained.get_potential_energy())
    expected = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    stress = from_ase(atoms, dtype=torch.float64).stress
    assert stress[0, 1, 1].item() == pytest.approx(expected, rel=1e-5)


def test_slab():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[4, 5, 0], pbc=[True, True, False])
    data = from_ase(atoms)
    assert data.pbc.tolist() == [[True, True, False]]
    assert to_ase(data) == atoms


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_types(dtype):
    data = from_ase(copper(), dtype=dtype)
    expected = torch.get_default_dtype() if dtype is None else dtype
    for name in ("pos", "cell", "force", "stress"):
        assert data[name].dtype == expected, name
    assert data.energy.dtype == torch.float64


@pytest.mark.parametrize("make", [copper, lambda: labelled(molecule("C2H6")), lambda: Atoms("Ar")])
def test_round_trip(make):
    atoms = make()
    back = to_ase(from_ase(atoms, dtype=torch.float64))
    assert back == atoms
    assert (back.calc is None) == (atoms.calc is None)
    if atoms.calc is not None:
        assert back.get_potential_energy() == atoms.get_potential_energy()
        assert np.array_equal(back.get_forces(), atoms.get_forces())
        if "stress" in atoms.calc.results:
            assert np.allclose(back.get_stress(), atoms.get_stress(), rtol=1e-14)


def test_values_of_a_lone_atom_are_those_of_the_molecule():
    data = Data(z=torch.tensor([18]), pos=torch.zeros(1, 3), charge=torch.tensor([2]))
    back = to_ase(data)
    assert back.info == {"charge": 2}
    assert set(back.arrays) == {"numbers", "positions"}


def test_round_trip_through_extended_xyz(tmp_path):
    path = tmp_path / "frames.xyz"
    frames = [copper(), labelled(bulk("Al"), stress=np.arange(6.0))]
    ase.io.write(path, [to_ase(from_ase(atoms, dtype=torch.float64)) for atoms in frames])
    for atoms, read in zip(frames, ase.io.read(path, ":"), strict=True):
        data, again = from_ase(atoms, dtype=torch.float64), from_ase(read, dtype=torch.float64)
        assert sorted(data.keys()) == sorted(again.keys())
        for key in ("pos", "cell", "energy", "force", "stress"):
            torch.testing.assert_close(again[key], data[key], rtol=1e-7, atol=1e-7)


def test_constraints_do_not_hide_forces():
    atoms = labelled(molecule("H2O"))
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    assert not atoms.get_forces().any()  # what ASE says by default
    forces = from_ase(atoms, dtype=torch.float64).force.numpy()
    assert np.array_equal(forces, atoms.get_forces(apply_constraint=False))
    assert forces.any()


def test_results_of_another_structure_do_not_count():
    atoms = labelled(molecule("H2O"))
    atoms.positions[0] += 0.1
    assert sorted(from_ase(atoms).keys()) == ["pos", "z"]
    with pytest.raises(ValueError, match=r"'energy' .*of another structure"):
        from_ase(atoms, labels=["energy"])


@pytest.mark.parametrize("change", ["numbers", "cell", "pbc"])
def test_any_change_makes_results_stale(change):
    atoms = copper()
    if change == "numbers":
        atoms.numbers[0] = 47
    elif change == "cell":
        atoms.cell[0, 0] += 0.1
    else:
        atoms.pbc = [True, True, False]
    assert "energy" not in from_ase(atoms)


def test_no_calculation_is_started():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert "energy" not in from_ase(atoms)
    assert not atoms.calc.results


def test_labels_by_other_names():
    atoms = labelled(molecule("H2O"), dipole=np.array([0.0, 0.0, 0.5]), charges=[-0.8, 0.4, 0.4])
    atoms.info |= {"REF_energy": -1.5, "tag": "a", "step": 7, "pair": np.array([1, 2])}
    atoms.set_array("REF_forces", np.ones((3, 3)))
    labels = {"energy": "REF_energy", "force": "REF_forces", "mu": "dipole", "q": "charges"}
    data = from_ase(atoms, labels={**labels, "tag": "tag", "step": "step", "pair": "pair"})
    assert data.energy.tolist() == [-1.5]
    assert torch.equal(data.force, torch.ones(3, 3))
    assert data.mu.tolist() == [[0.0, 0.0, 0.5]]
    assert data.q.shape == (3,)
    assert (data.tag, data.step.tolist(), data.pair.tolist()) == ("a", [7], [[1, 2]])
    assert "REF_energy" not in data
    back = to_ase(data)
    assert back.info["tag"] == "a"
    assert back.info["step"] == 7
    assert np.allclose(back.arrays["q"], [-0.8, 0.4, 0.4])


def test_missing_labels_list_what_there_is():
    atoms = labelled(molecule("H2O"))
    atoms.info["E_ref"] = 1.0
    with pytest.raises(ValueError, match=r"'E0' \(for 'energy'\) is missing.*'E_ref', 'energy'"):
        from_ase(atoms, labels={"energy": "E0"})


@pytest.mark.parametrize(
    ("info", "labels", "message"),
    [
        ({"E": [1.0, 2.0]}, {"energy": "E"}, r"'energy' of frame 0 must have shape \[\]"),
        ({"E": "low"}, {"energy": "E"}, "'energy' must hold numbers"),
        ({"F": np.ones((2, 3))}, {"force": "F"}, r"'force' of frame 0 must have shape \[3, 3\]"),
        ({"S": np.ones(5)}, {"stress": "S"}, "6 or 3 x 3 numbers"),
        ({"S": np.triu(np.ones((3, 3)))}, {"stress": "S"}, "must be symmetric"),
        ({"virial": np.ones(6)}, {"stress": "virial"}, "seems to be a virial"),
        ({"E": None}, {"energy": "E"}, r"'E' .*is missing"),
        ({"data": "E"}, {"energy": "E"}, r"'E' .*is missing"),
        ({"c": 1j}, ["c"], "'c' must hold numbers or strings"),
    ],
)
def test_wrong_labels(info, labels, message):
    atoms = molecule("H2O")
    atoms.info |= info
    with pytest.raises(ValueError, match=message):
        from_ase(atoms, labels=labels)


def test_values_of_atoms_in_the_wrong_place():
    atoms = labelled(molecule("H2O"), energies=np.ones(3))
    with pytest.raises(ValueError, match=r"'energy' of frame 0 must have shape \[\] \(got \[3\]"):
        from_ase(atoms, labels={"energy": "energies"})
    atoms.set_array("names", np.array(["O", "H", "H"]))
    with pytest.raises(ValueError, match="'names' must hold numbers"):
        from_ase(atoms, labels=["names"])


@pytest.mark.parametrize("name", ["z", "batch", "atom_index", "edge_attr", "num_nodes", "keys"])
def test_names_that_pyg_uses(name):
    atoms = molecule("H2O")
    atoms.info["k"] = 1
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        from_ase(atoms, labels={name: "k"})


def test_labels_are_no_single_string():
    with pytest.raises(TypeError, match=r"use labels=\['energy'\]"):
        from_ase(molecule("H2O"), labels="energy")


def test_impossible_structures():
    atoms = molecule("H2O")
    atoms.positions[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"atom 1 of frame 0 is at .*nan\]: positions must be fin"):
        from_ase(atoms)
    with pytest.raises(ValueError, match="atom 0 of frame 1 has atomic number 0"):
        read_frames([molecule("H2O"), Atoms("XH")])
    with pytest.raises(ValueError, match="frame 0 has no atoms"):
        from_ase(Atoms())
    with pytest.raises(ValueError, match=r"frame 0 is periodic along \[True, False, False\]"):
        from_ase(Atoms("H", pbc=[True, False, False]))
    with pytest.raises(ValueError, match="is periodic along"):
        from_ase(Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True))
    with pytest.raises(TypeError, match="expected ase"):
        from_ase(random_molecule(2))


def test_batches_of_periodic_structures():
    structures = [from_ase(bulk("Cu")), from_ase(bulk("Al", cubic=True)), from_ase(bulk("Si"))]
    batch = Batch.from_data_list(structures)
    assert batch.cell.shape == (3, 3, 3)
    assert batch.pbc.shape == (3, 3)
    assert batch.pbc.dtype == torch.bool
    for i, data in enumerate(batch.to_data_list()):
        assert torch.equal(data.cell, structures[i].cell)
    atoms = to_ase(batch)
    assert [len(a) for a in atoms] == [1, 4, 2]
    assert np.allclose(atoms[1].cell, bulk("Al", cubic=True).cell)


def test_mixed_frames():
    flat = read_frames([Atoms("He", cell=[5, 5, 5]), bulk("Cu")])
    assert flat.molecules["pbc"].tolist() == [[False] * 3, [True] * 3]
    assert not flat.molecules["cell"][0].any()
    assert np.allclose(flat.molecules["cell"][1], bulk("Cu").cell)


def test_frames_that_differ_in_labels():
    frames = [labelled(molecule("H2O")), labelled(molecule("CH4")), molecule("H2O")]
    with pytest.raises(ValueError, match="missing in frame 2, as in 1 of 3 frames"):
        read_frames(frames)
    assert read_frames(frames[:2]).molecules["energy"].tolist() == [-3.25, -3.25]


def test_missing_labels_stay_missing():
    data = from_ase(labelled(molecule("H2O")))
    data.energy = torch.tensor([float("nan")])
    assert sorted(to_ase(data).calc.results) == ["forces"]


def test_edges_are_left_behind():
    data = random_molecule(3)
    data.edge_index, data.edge_weight = torch.tensor([[0], [1]]), torch.tensor([1.0])
    data.cutoff, data.bond_index = torch.tensor([2.0]), torch.tensor([[0], [1]])
    atoms = to_ase(data)
    assert not atoms.info
    assert sorted(atoms.arrays) == ["numbers", "positions"]


def test_to_ase_refuses_what_it_cannot_take_apart():
    with pytest.raises(ValueError, match=r"must have 'pos'.*\['z'\]"):
        to_ase(Data(z=torch.tensor([1])))
    with pytest.raises(TypeError, match=r"expected a Data or Batch \(got list\)"):
        to_ase([random_molecule(2)])
    with pytest.raises(ValueError, match=r"periodic .*no 'cell'"):
        to_ase(Data(z=torch.tensor([1]), pos=torch.zeros(1, 3), pbc=torch.ones(1, 3).bool()))
    data = random_molecule(2)
    data.batch = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="put them together by"):
        to_ase(data)


def test_predictions_of_what_came_from_ase():
    """The same as of the tensors themselves."""
    atoms, model = molecule("CH3OH"), small_model()
    result = model.predict(from_ase(atoms, dtype=torch.float64))
    expected = model(torch.tensor(atoms.numbers), torch.tensor(atoms.positions))
    torch.testing.assert_close(result["energy"], expected.flatten().detach())


def test_without_ase(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase", None)
    for convert in (to_ase, from_ase):
        with pytest.raises(ImportError, match=r"pip install pyg-schnet\[ase\]"):
            convert(random_molecule(2))
