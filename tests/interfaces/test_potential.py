"""The potential of a molecule against automatic differentiation in float64 and ``predict``."""

import copy
import pickle

import numpy as np
import pytest
import torch
from molecules import random_molecule, small_model
from torch_geometric.data import Data

from pyg_schnet import Potential, SchNet
from pyg_schnet.interfaces import potential as module


def arrays(num_atoms=9, dtype=torch.float64):
    data = random_molecule(num_atoms, dtype=dtype)
    return data.z.numpy(), data.pos.numpy()


def expected(model, z, pos):
    """By autograd, from filters without tables, in float64."""
    exact = copy.deepcopy(model).double()
    exact.mode = "exact"
    positions = torch.from_numpy(pos).double().requires_grad_()
    energy = exact(torch.from_numpy(z), positions).sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    return energy.item(), -gradient.numpy()


@pytest.fixture
def without_operators(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this was to be done by the kernel")

    monkeypatch.setattr(module, "evaluated", refuse)


@pytest.mark.parametrize("readout", ["add", "mean"])
@pytest.mark.parametrize("num_atoms", [1, 2, 18])
def test_kernel(num_atoms, readout, without_operators):
    model = small_model(readout=readout).float()
    z, pos = arrays(num_atoms)
    energy, forces, energies = Potential(model)(z, pos)
    reference = expected(model, z, pos)
    assert energy == pytest.approx(reference[0], rel=1e-6, abs=1e-5)
    assert np.abs(forces - reference[1]).max() <= 1e-4 * np.abs(reference[1]).max()
    assert energies.sum() / (num_atoms if readout == "mean" else 1) == pytest.approx(energy)


@pytest.mark.parametrize("kind", ["float64 weights", "large", "int32", "hook"])
def test_what_is_none_for_the_kernel(kind):
    model = small_model().float()
    z, pos = arrays(9)
    potential = Potential(model, dtype=torch.float64 if kind == "float64 weights" else None)
    if kind == "large":
        potential._network = potential._network._replace(most=8)
    if kind == "int32":
        z = z.astype(np.int32)
    if kind == "hook":
        model.interactions[0].lin.register_forward_hook(lambda module, args, out: 1.5 * out)
        potential = Potential(model)
        assert potential._network is None
    energy, forces, _ = potential(z, pos)
    reference = expected(model, z.astype(np.int64), pos)
    assert energy == pytest.approx(reference[0], rel=1e-6, abs=1e-5)
    assert np.abs(forces - reference[1]).max() <= 1e-4 * np.abs(reference[1]).max()


def test_layout_and_precision_of_positions():
    potential = Potential(small_model().float())
    z, pos = arrays(9)
    first = potential(z, pos)
    for other in (np.asfortranarray(pos), np.repeat(pos, 2, axis=0)[::2]):
        assert np.array_equal(potential(z, other).forces, first.forces)
    single = potential(z, pos.astype(np.float32))
    assert np.allclose(single.forces, first.forces, atol=1e-4 * np.abs(first.forces).max())


def test_is_a_copy():
    model = small_model().float().train()
    z, pos = arrays()
    potential = Potential(model)
    before = potential(z, pos).energy
    with torch.no_grad():
        model.readout.lin2.weight.mul_(2.0)
    model.share_memory()  # moves the weights
    assert model.training
    assert potential(z, pos).energy == before


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(duplicate, without_operators):
    model = small_model().float()
    z, pos = arrays()
    potential = Potential(model)
    again = duplicate(potential)
    expected = potential(z, pos)
    del potential
    assert np.array_equal(again(z, pos).forces, expected.forces)
    assert len(pickle.dumps(again)) < 1.2 * len(pickle.dumps(again._model))


def test_any_arrays(without_operators):
    potential = Potential(small_model().float())
    z, pos = arrays()
    expected = potential(z, pos)
    frozen = pos.copy()
    frozen.flags.writeable = False
    for other in ((z.tolist(), pos.tolist()), (z, frozen), (z[::-1][::-1], pos[::-1][::-1])):
        assert np.array_equal(potential(*other).forces, expected.forces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, pos: (z, np.where(pos == pos[2, 1], np.nan, pos)), "finite"),
        (lambda z, pos: (z, np.concatenate([pos[:1], pos[:-1]])), "same place"),
        (lambda z, pos: (np.where(z == z[0], 101, z), pos), "101"),
        (lambda z, pos: (z[:-1], pos), "one row per atom"),
        (lambda z, pos: (z[:, None], pos), r"'z' must"),
    ],
)
def test_refuses(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Potential(small_model().float())(*change(*arrays()))


def test_distances_that_overflow_are_left_to_the_operators():
    z, pos = arrays()
    with pytest.raises(ValueError, match=r"beyond|finite"):
        Potential(small_model(envelope="none", cutoff=9.0).float())(z, 1e100 * pos)


def test_damaged_weights():
    model = small_model().float()
    with torch.no_grad():
        model.interactions[0].lin.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        Potential(model)(*arrays())


def test_other_models():
    with pytest.raises(TypeError, match="expected a SchNet"):
        Potential(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="must predict energies"):
        Potential(SchNet(8, 8, 1, dipole=True))
    with pytest.raises(ValueError, match="float16"):
        Potential(SchNet(8, 8, 1), dtype=torch.float16)


def test_is_what_predict_says():
    model = small_model().float()
    z, pos = arrays(12)
    result = model.freeze().predict(Data(z=torch.from_numpy(z), pos=torch.from_numpy(pos)))
    energy, forces, _ = Potential(model)(z, pos)
    assert energy == pytest.approx(result["energy"].item(), abs=1e-5)
    assert np.allclose(forces, result["forces"].numpy(), atol=1e-4 * np.abs(forces).max())
