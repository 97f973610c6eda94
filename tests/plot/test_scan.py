"""Bond scans, against geometries that are stretched by hand."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from molecules import small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.data import from_ase
from pyg_schnet.plot import bond_scan

ETHANOL: Atoms = molecule("CH3CH2OH")

DISTANCES = np.linspace(1.2, 1.9, 15)


def data(atoms: Atoms = ETHANOL) -> Data:
    made = from_ase(atoms)
    made.pos = torch.from_numpy(atoms.positions)  # in double precision
    return made


def curve(axes, label: str = "model") -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    x, y = line.get_data()
    return np.atleast_1d(x), np.atleast_1d(y)


def carbons_and_oxygen() -> tuple[int, int, int]:
    """The oxygen, the carbon that it is bound to, and the other one."""
    oxygen = ETHANOL.numbers.tolist().index(8)
    carbons = np.flatnonzero(ETHANOL.numbers == 6)
    near, far = sorted(carbons, key=lambda c: ETHANOL.get_distance(oxygen, c))
    return oxygen, int(near), int(far)


def test_energies_and_forces():
    """ASE moves the hydroxyl group; the force is the slope of the energies."""
    oxygen, carbon, _ = carbons_and_oxygen()
    hydrogen = int(np.argsort(ETHANOL.get_distances(oxygen, range(9)))[1])
    assert ETHANOL.numbers[hydrogen] == 1
    model = small_model()
    model.units = "eV"
    upper, lower = bond_scan(model, data(), carbon, oxygen, DISTANCES[::-1].copy()).axes
    energies = []
    for distance in DISTANCES:
        atoms = ETHANOL.copy()
        atoms.set_distance(carbon, oxygen, distance, fix=0, indices=[oxygen, hydrogen])
        energies.append(model.predict(data(atoms))["energy"].item())
    drawn, above = curve(upper)
    np.testing.assert_allclose(drawn, DISTANCES)
    np.testing.assert_allclose(above, np.array(energies) - min(energies), atol=1e-9)
    _, force = curve(lower)
    slope = np.gradient(energies, DISTANCES, edge_order=2)
    np.testing.assert_allclose(force[1:-1], -slope[1:-1], atol=0.02 * np.abs(slope).max())
    start, given = curve(upper, "geometry given")
    assert start[0] == pytest.approx(ETHANOL.get_distance(carbon, oxygen))
    here = model.predict(data())["energy"].item()
    assert given[0] == pytest.approx(here - min(energies), abs=1e-9)
    assert upper.get_ylabel() == "energy above the lowest [eV]"
    assert lower.get_ylabel() == "force [eV/Å]"
    assert lower.get_xlabel() == f"C{carbon}-O{oxygen} distance [Å]"


def test_the_force_is_the_exact_derivative():
    model, here = small_model(), data()
    oxygen, carbon, _ = carbons_and_oxygen()
    step, start = 1e-4, ETHANOL.get_distance(oxygen, carbon)
    around = [start - step, start + step]
    upper, lower = bond_scan(model, here, oxygen, carbon, around).axes
    (low, high), (given,) = curve(upper)[1], curve(lower, "geometry given")[1]
    assert given == pytest.approx(-(high - low) / (2 * step), rel=1e-5)


def test_what_moves_can_be_chosen():
    """In a ring nothing hangs on one end only."""
    benzene = molecule("C6H6")
    model = small_model()
    with pytest.raises(ValueError, match="atoms 0 and 1 are connected through others too"):
        bond_scan(model, data(benzene), 0, 1, DISTANCES)
    upper, _ = bond_scan(model, data(benzene), 0, 1, DISTANCES, moving=[1, 7]).axes
    energies = []
    for distance in DISTANCES:
        atoms = benzene.copy()
        atoms.set_distance(0, 1, distance, fix=0, indices=[1, 7])
        energies.append(model.predict(data(atoms))["energy"].item())
    np.testing.assert_allclose(curve(upper)[1], np.array(energies) - min(energies), atol=1e-9)


def test_two_molecules_move_as_wholes():
    pair = molecule("H2O") + Atoms("Ar", [[0.0, 0.0, 4.0]])
    model = small_model()
    upper, _ = bond_scan(model, data(pair), 3, 0, [3.0, 3.5]).axes
    oxygen = pair.positions[:3] + (np.array([0, 0, 4.0]) - pair.positions[0])
    towards = pair.positions[0] - pair.positions[3]
    towards /= np.linalg.norm(towards)
    energies = []
    for distance in (3.0, 3.5):
        atoms = pair.copy()
        atoms.positions[:3] = oxygen + distance * towards
        energies.append(model.predict(data(atoms))["energy"].item())
    np.testing.assert_allclose(curve(upper)[1], np.array(energies) - min(energies), atol=1e-9)


def test_range_of_the_training_data():
    upper, lower = bond_scan(small_model(), data(), 0, 1, [1.3, 1.5], seen=(1.35, 1.45)).axes
    for axes in (upper, lower):
        (shaded,) = axes.patches
        assert (shaded.get_x(), shaded.get_width()) == pytest.approx((1.35, 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, [1.0, 2.0]), r"two different atoms of 0 to 8 \(got 0 and 0\)"),
        ((0, 9, [1.0, 2.0]), r"two different atoms of 0 to 8 \(got 0 and 9\)"),
        ((-1, 2, [1.0, 2.0]), r"two different atoms of 0 to 8 \(got -1 and 2\)"),
        ((0, 1, [1.0]), r"at least two finite positive 'distances' \(got \[1.0\]\)"),
        ((0, 1, [0.0, 1.0]), "at least two finite positive 'distances'"),
        ((0, 1, [1.0, float("nan")]), "at least two finite positive 'distances'"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        bond_scan(small_model(), data(), *arguments)


@pytest.mark.parametrize("moving", [[2], [0, 1], [1, 9]])
def test_what_cannot_move(moving):
    with pytest.raises(ValueError, match=r"'moving' must be indices of atoms, 1 among them and 0"):
        bond_scan(small_model(), data(), 0, 1, [1.0, 2.0], moving=moving)


def test_what_is_no_molecule():
    model, distances = small_model(), [1.0, 2.0]
    with pytest.raises(TypeError, match=r"expected a Data \(got Atoms\)"):
        bond_scan(model, ETHANOL, 0, 1, distances)
    with pytest.raises(ValueError, match="expected one molecule in three dimensions"):
        bond_scan(model, Batch.from_data_list([data(), data()]), 0, 1, distances)
    with pytest.raises(ValueError, match="periodic systems cannot be drawn"):
        bond_scan(model, Data(**data().to_dict(), cell=torch.eye(3)[None]), 0, 1, distances)
    with pytest.raises(ValueError, match="the data must have 'z' and 'pos'"):
        bond_scan(model, Data(z=data().z), 0, 1, distances)
    with pytest.raises(ValueError, match="this one predicts 'homo'"):
        bond_scan(SchNet(8, 8, 1, target="homo"), data(), 0, 1, distances)
