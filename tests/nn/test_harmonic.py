"""Hessians against finite differences, vibrations against ASE and against a spring by hand."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import BFGS
from ase.vibrations import Vibrations as VibrationsOfASE
from molecules import MODELS, random_molecule, small_model
from torch import nn
from torch_geometric.data import Batch, Data

from pyg_schnet import Ensemble, SchNet, SchNetCalculator, hessian, vibrations
from pyg_schnet.data import from_ase

KINDS = [kind for kind in MODELS if kind != "dipole"]


def by_differences(model, data, step=1e-4):
    """Central differences of the forces."""
    columns = []
    for k in range(data.pos.numel()):
        forces = []
        for sign in (1, -1):
            pos = data.pos.clone()
            pos.view(-1)[k] += sign * step
            moved = data.clone()
            moved.pos = pos
            forces.append(model.predict(moved)["forces"].flatten())
        columns.append((forces[1] - forces[0]) / (2 * step))
    return torch.stack(columns)


@pytest.mark.parametrize("kind", KINDS)
def test_hessian_of_a_molecule(kind):
    model, data = small_model(**MODELS[kind]), random_molecule(6)
    actual = hessian(model, data)
    expected = by_differences(model, data)
    assert expected.abs().max() > 0.05
    assert torch.allclose(actual, expected, atol=1e-6 * float(expected.abs().max()))
    assert torch.equal(actual, actual.T)


def test_hessian_of_a_crystal():
    model, data = small_model(), random_molecule(4)
    data.cell, data.pbc = 4.5 * torch.eye(3).double().unsqueeze(0), torch.ones(1, 3).bool()
    expected = by_differences(model, data)
    assert torch.allclose(hessian(model, data), expected, atol=1e-6 * float(expected.abs().max()))


def test_hessian_does_not_depend_on_precision_mode_or_chunks(monkeypatch):
    """That of a frozen float32 network is the exact one of its weights."""
    model, data = small_model(num_gaussians=40).float(), random_molecule(6)
    expected = by_differences(small_model(num_gaussians=40).float().double(), data)
    model.train()
    first = hessian(model, data)
    assert model.training
    assert model.embedding.weight.dtype == torch.float32
    assert torch.allclose(first, expected, atol=1e-6 * float(expected.abs().max()))
    monkeypatch.setattr("pyg_schnet.nn.harmonic._CHUNK", 1000)
    model.mode = "table"
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.allclose(hessian(model.freeze(), data), first, rtol=1e-12)


def test_hessian_of_an_ensemble_is_the_mean():
    models, data = [small_model(units="eV") for _ in range(2)], random_molecule(4)
    models[1].reset_parameters()
    expected = (hessian(models[0], data) + hessian(models[1], data)) / 2
    assert torch.allclose(hessian(Ensemble(models), data), expected, rtol=1e-12)


def test_atoms_apart_do_not_vibrate():
    data = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 9.0]]).double())
    assert not hessian(small_model(), data).any()
    alone = Data(z=torch.tensor([1]), pos=torch.zeros(1, 3))
    assert not hessian(small_model(), alone).any()
    assert vibrations(small_model(), alone, units="eV").frequencies.shape == (0,)


def test_refused():
    model, data = small_model(), random_molecule(3)
    with pytest.raises(ValueError, match=r"one molecule .got 2"):
        hessian(model, Batch.from_data_list([data, data]))
    with pytest.raises(ValueError, match="target is 'mu'"):
        hessian(small_model(dipole=True, target="mu"), data)
    with pytest.raises(TypeError, match="got Linear"):
        hessian(nn.Linear(1, 1), data)
    with pytest.raises(ValueError, match="give 'units'"):
        vibrations(model, data)
    model.units = "eV"
    with pytest.raises(ValueError, match="in eV, not in meV"):
        vibrations(model, data, units="meV")
    with (
        pytest.warns(UserWarning, match="largest force"),
        pytest.raises(ValueError, match="3 positive numbers"),
    ):
        vibrations(model, data, masses=torch.ones(2))


class Springs(SchNet):
    r"""Harmonic springs of constant k between all pairs, at rest at one angstrom."""

    def _evaluate(self, system):
        pos = system.pos
        pairs = torch.combinations(torch.arange(len(pos)))
        lengths = (pos[pairs[:, 0]] - pos[pairs[:, 1]]).norm(dim=1)
        energy = 0.5 * 30.0 * (lengths - 1.0).square().sum().reshape(1, 1)
        return energy, pos.new_zeros(len(pos)), pos.new_zeros(len(pos), 1)


def springs() -> Springs:
    return Springs(4, 4, 1, units="eV").double()


def test_diatomic_by_hand():
    """The textbook: the root of k / mu over 2 pi c, in SI units."""
    data = Data(z=torch.tensor([1, 17]), pos=torch.tensor([[0.0, 0, 0], [0.6, 0.8, 0]]).double())
    found = vibrations(springs(), data, masses=torch.tensor([1.0, 35.0]))
    k = 30.0 * 1.602176634e-19 / 1e-20  # N/m
    reduced = 1.0 * 35.0 / 36.0 * 1.66053906660e-27  # kg
    expected = math.sqrt(k / reduced) / (2 * math.pi * 2.99792458e10)
    assert found.frequencies.tolist() == pytest.approx([expected], rel=1e-9)
    # 1/cm is 0.12398 meV
    assert found.zero_point_energy == pytest.approx(expected * 1.2398420e-4 / 2, rel=1e-7)
    mode = found.modes[0] * found.modes[0, 0, 0].sign()
    along = torch.tensor([0.6, 0.8, 0.0]).double()
    expected_mode = torch.stack([35.0 * along, -along]) / math.hypot(35.0, 1.0)
    assert torch.allclose(mode, expected_mode, atol=1e-9)


def test_triangle_by_hand():
    """Three equal masses with springs: the breathing mode has three times k / m, the two others
    half of that (Goldstein, Classical Mechanics, normal modes of molecules).
    """
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 3**0.5 / 2, 0]]).double()
    found = vibrations(springs(), Data(z=torch.ones(3).long(), pos=pos), masses=torch.ones(3))
    ratio = (found.frequencies / found.frequencies[-1]).square()
    assert torch.allclose(ratio, torch.tensor([0.5, 0.5, 1.0]).double(), atol=1e-9)
    scale = 521.4708983725064  # 1/cm of the root of eV / angstrom^2 / u
    assert found.frequencies[-1].item() == pytest.approx(scale * math.sqrt(90.0), rel=1e-6)


@pytest.mark.parametrize("modes", [4, 3])
def test_against_ase(tmp_path, modes):
    """ASE displaces atoms and keeps translations and rotations, as frequencies near zero."""
    model = small_model(units="eV", cutoff=5.0)
    atoms = Atoms("OCO", positions=[[0, 0, -1.2], [0.0 if modes == 4 else 0.6, 0, 0], [0, 0, 1.2]])
    atoms.calc = SchNetCalculator(model, domain="ignore")
    assert BFGS(atoms, logfile=None).run(fmax=1e-6, steps=500)  # linear structures stay linear
    found = vibrations(model, from_ase(atoms, dtype=torch.float64))
    assert found.modes.shape == (modes, 3, 3)
    assert torch.allclose(found.modes.square().sum(dim=(1, 2)), torch.ones(modes).double())
    reference = VibrationsOfASE(atoms, name=str(tmp_path / "vibrations"), delta=1e-3)
    reference.run()
    frequencies = reference.get_frequencies()
    signed = frequencies.real - frequencies.imag
    internal = np.sort(signed[np.argsort(np.abs(signed))[-modes:]])
    assert np.allclose(found.frequencies.numpy(), internal, rtol=1e-3)
    energy = 0.5 * 1.2398420e-4 * internal.clip(min=0).sum()
    assert found.zero_point_energy == pytest.approx(energy, rel=1e-3)


def test_crystal_keeps_its_rotations():
    """Three modes less than coordinates, against the eigenvalues of the whole matrix."""
    model, data = small_model(units="eV"), random_molecule(4)
    data.cell, data.pbc = 4.5 * torch.eye(3).double().unsqueeze(0), torch.ones(1, 3).bool()
    with pytest.warns(UserWarning, match="largest force"):
        found = vibrations(model, data, masses=torch.ones(4))
    values = torch.linalg.eigvalsh(by_differences(model, data))
    zeros = values.abs().argsort()[:3]
    assert values[zeros].abs().max() < 1e-5
    kept = torch.ones(12).bool().index_fill(0, zeros, False)
    ratio = found.frequencies / (values[kept].sign() * values[kept].abs().sqrt())
    assert torch.allclose(ratio, torch.full_like(ratio, 521.4709), rtol=1e-4)
