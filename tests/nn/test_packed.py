"""The network on packed batches against itself on ordinary ones: padding adds nothing at all."""

import math
import os

import numpy as np
import pytest
import torch
from molecules import random_molecule, small_model
from torch_geometric.data import Batch
from waits import Waits

from pyg_schnet import SchNet, forces_from_energy, ops
from pyg_schnet.data.packed import Capacity, PackedMolecules
from pyg_schnet.nn.packed import evaluate_packed
from pyg_schnet.nn.tables import knots_of

SIZES = [5, 1, 8, 3]
CHOSEN = [2, 0, 1]
MODELS = {
    "cosine": dict(),
    "all pairs": dict(envelope="none", cutoff=30.0, num_activations=2, lin1_bias=True),
    "mean": dict(readout="mean"),
}


def make(kind: str, mode: str = "table") -> tuple[SchNet, PackedMolecules]:
    model = small_model(**MODELS[kind], mode=mode)
    whole = Batch.from_data_list([random_molecule(n, seed=n) for n in SIZES])
    energy = torch.zeros(len(SIZES)).double()
    radius = model.cutoff if model.envelope != "none" else math.inf
    sizes, cpu = torch.tensor(SIZES), torch.device("cpu")
    return model, PackedMolecules(whole.z, whole.pos, sizes, energy, None, radius, cpu)


def run(model: SchNet, data: PackedMolecules, capacity: Capacity | None = None):
    """Energies, forces, and the gradients of a function of both by weights and positions."""
    knots = knots_of(model.interactions[0].conv.filter).covering(data.longest)
    capacity = data.needed(np.array(CHOSEN)) if capacity is None else capacity
    batch = data.batch(torch.tensor(CHOSEN), capacity, knots)
    pos = batch.pos.requires_grad_()
    energy = evaluate_packed(model, batch, pos)
    forces = forces_from_energy(energy, pos, create_graph=True)
    wanted = [pos, *model.parameters()]
    loss = (energy / 10).sin().sum() + forces.square().sum()
    return energy, forces, torch.autograd.grad(loss, wanted, materialize_grads=True)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", MODELS)
def test_as_the_ordinary_batch(kind, backend):
    model, data = make(kind)
    with ops.backend(backend):
        energy, forces, (by_pos, *by_weights) = run(model, data)
        ordinary = Batch.from_data_list([random_molecule(SIZES[k], seed=SIZES[k]) for k in CHOSEN])
        pos = ordinary.pos.requires_grad_()
        expected = model(ordinary.z, pos, ordinary.batch)[:, 0]
        wanted = forces_from_energy(expected, pos, create_graph=True)
        loss = (expected / 10).sin().sum() + wanted.square().sum()
        grads = torch.autograd.grad(loss, [pos, *model.parameters()], materialize_grads=True)
    atoms = ordinary.num_nodes
    close = dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(energy[:-1], expected, **close)
    torch.testing.assert_close(forces[:atoms], wanted, **close)
    torch.testing.assert_close(by_pos[:atoms], grads[0], **close)
    for one, two in zip(by_weights, grads[1:], strict=True):
        torch.testing.assert_close(one, two, **close)
    # Not small, but zero.
    assert energy[-1] == 0
    assert not forces[atoms:].any()
    assert not by_pos[atoms:].any()
    assert not by_weights[0][0].any()  # the embedding of padding


@pytest.mark.parametrize("kind", MODELS)
def test_more_padding_changes_nothing(kind):
    """But for the order of sums in products of matrices, whose blocks are of other sizes."""
    model, data = make(kind)
    energy, forces, grads = run(model, data)
    more_energy, more_forces, more_grads = run(model, data, Capacity(80, 1024))
    atoms = sum(SIZES[k] for k in CHOSEN)
    close = dict(rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(energy, more_energy, **close)
    torch.testing.assert_close(forces[:atoms], more_forces[:atoms], **close)
    for one, two in zip(grads[1:], more_grads[1:], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13 * float(two.abs().max()))


def test_nothing_waits():
    """Of the plain operations, as on a GPU; kernels do not either, see tests/ops/test_cuda.py."""
    model, data = make("all pairs")
    with ops.backend("reference"):
        run(model, data)  # what filters keep of their knots
        with Waits() as waits:
            run(model, data)
    assert waits.count == 0


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
def test_by_the_kernels_of_gpus():
    """In Triton's interpreter: a handful of atoms."""
    triton = pytest.importorskip("triton", reason="needs Triton: pip install triton")
    versions = (tuple(map(int, m.__version__.split(".")[:2])) for m in (triton, np))
    if next(versions) < (3, 7) and next(versions) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 fails with NumPy 2.4")
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1.2, 0], [0, 0, 0], [1.1, 0, 0]])
    torch.manual_seed(0)
    model = SchNet(4, 4, 1, num_gaussians=4, cutoff=2.0, mode="table")
    data = PackedMolecules(
        *(torch.tensor([8, 1, 1, 1, 1]), pos, torch.tensor([3, 2]), torch.zeros(2).double()),
        *(None, 2.0, torch.device("cpu")),
    )
    results = []
    for backend in ("triton", "reference"):
        with ops.backend(backend):
            knots = knots_of(model.interactions[0].conv.filter)
            batch = data.batch(torch.tensor([1, 0]), Capacity(8, 16), knots)
            moving = batch.pos.requires_grad_()
            energy = evaluate_packed(model, batch, moving)
            forces = forces_from_energy(energy, moving, create_graph=True)
            loss = energy.sum() + forces.square().sum()
            grads = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        results.append((energy, forces, *grads))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert not results[0][1][5:].any()
