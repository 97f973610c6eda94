"""What must hold of any model of molecules."""

import math

import pytest
import torch
from molecules import RTOL, random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import forces_from_energy


def rotation(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)  # proper


def moved(data: Data, matrix=None, shift=0.0) -> Data:
    data = data.clone()
    data.pos = data.pos @ (torch.eye(3).double() if matrix is None else matrix).T + shift
    return data


MOTIONS = {
    "rotation": (rotation(1), 0.0),
    "reflection": (torch.diag(torch.tensor([1.0, 1.0, -1.0])).double() @ rotation(2), 0.0),
    "translation": (None, torch.tensor([3.0, -50.0, 0.7], dtype=torch.float64)),
}


@pytest.mark.parametrize(("matrix", "shift"), MOTIONS.values(), ids=MOTIONS)
def test_invariant_energy_equivariant_forces(model, matrix, shift):
    data = random_molecule(9)
    before = model.predict(data, energies=True)
    after = model.predict(moved(data, matrix, shift), energies=True)
    assert torch.allclose(after[model.target], before[model.target], rtol=1e-10)
    assert torch.allclose(after["energies"], before["energies"], rtol=1e-9)
    if "forces" in before:
        expected = before["forces"] @ (torch.eye(3).double() if matrix is None else matrix).T
        assert torch.allclose(after["forces"], expected, atol=1e-9)


def test_permutation(model):
    data = random_molecule(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    before, after = model.predict(data), model.predict(Data(z=data.z[order], pos=data.pos[order]))
    assert torch.allclose(after[model.target], before[model.target], rtol=1e-12)
    if "forces" in before:
        assert torch.allclose(after["forces"], before["forces"][order], atol=1e-12)


def test_species_matter(model):
    data = random_molecule(6)
    other = Data(z=data.z.flip(0), pos=data.pos)
    assert not torch.allclose(model.predict(data)[model.target], model.predict(other)[model.target])


def test_forces_against_central_differences(energy_model):
    data = random_molecule(6)
    forces = energy_model.predict(data)["forces"]
    step = 1e-4
    for atom in range(6):
        for axis in range(3):
            shifted = []
            for sign in (1, -1):
                pos = data.pos.clone()
                pos[atom, axis] += sign * step
                shifted.append(energy_model(data.z, pos).item())
            numeric = -(shifted[0] - shifted[1]) / (2 * step)
            assert forces[atom, axis].item() == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_forces_and_torques_sum_to_zero(energy_model):
    data = random_molecule(9)
    forces = energy_model.predict(data)["forces"]
    assert forces.abs().max() > 1e-2
    assert forces.sum(dim=0).abs().max() < 1e-10
    assert torch.linalg.cross(data.pos, forces).sum(dim=0).abs().max() < 1e-9


def test_gradcheck_and_gradgradcheck(model):
    data = random_molecule(4)
    pos = data.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda pos: model(data.z, pos), pos)
    assert torch.autograd.gradgradcheck(lambda pos: model(data.z, pos), pos)


def test_force_loss_reaches_the_parameters():
    model = small_model()
    data = random_molecule(5)
    filter_weight = model.interactions[0].conv.filter.lin1.weight

    def force_norm() -> torch.Tensor:
        pos = data.pos.clone().requires_grad_()
        return forces_from_energy(model(data.z, pos), pos, create_graph=True).square().sum()

    (gradient,) = torch.autograd.grad(force_norm(), filter_weight)
    direction = torch.randn_like(filter_weight)
    with torch.no_grad():
        filter_weight += 1e-5 * direction
    above = force_norm().item()
    with torch.no_grad():
        filter_weight -= 2e-5 * direction
    below = force_norm().item()
    assert (gradient * direction).sum().item() == pytest.approx((above - below) / 2e-5, rel=1e-4)


def test_no_gradient_across_molecules(model, batch):
    pos = batch.pos.clone().requires_grad_()
    out = model(batch.z, pos, batch.batch)
    for k in range(batch.num_graphs):
        (gradient,) = torch.autograd.grad(out[k].sum(), pos, retain_graph=True)
        assert not gradient[batch.batch != k].any()


def test_batch_equals_loop(model, batch):
    together = model.predict(batch)
    alone = [model.predict(data) for data in batch.to_data_list()]
    for name, value in together.items():
        assert torch.allclose(
            value, torch.cat([one[name] for one in alone]), rtol=1e-12, atol=1e-12
        )


def test_extensive():
    model = small_model()
    data = random_molecule(7)
    far = Data(
        z=torch.cat([data.z, data.z]),
        pos=torch.cat([data.pos, data.pos + torch.tensor([100.0, 0, 0])]),
    )
    assert torch.allclose(model.predict(far)["energy"], 2 * model.predict(data)["energy"])
    intensive = small_model(readout="mean")
    assert torch.allclose(intensive.predict(far)["energy"], intensive.predict(data)["energy"])


@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
def test_energy_and_force_go_to_zero_at_the_cutoff(envelope):
    model = small_model(envelope=envelope)
    z = torch.tensor([6, 8])

    def at(distance: float) -> dict:
        pos = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)
        return model.predict(Data(z=z, pos=pos))

    apart = at(50.0)["energy"]
    assert at(2.0)["energy"] != apart
    for distance in (4.0, 4.0 + 1e-9, 4.5, 7.9):
        assert torch.equal(at(distance)["energy"], apart)
        assert not at(distance)["forces"].any()
    near = at(4.0 - 1e-4)
    assert (near["energy"] - apart).abs() < 1e-6
    assert near["forces"].abs().max() < 1e-2


def test_single_atoms_and_no_edges(model):
    alone = model.predict(Data(z=torch.tensor([6]), pos=torch.zeros(1, 3).double()))
    assert alone[model.target].isfinite().all()
    if "forces" in alone:
        assert not alone["forces"].any()
    if model.envelope != "none":
        pos = torch.tensor([[0.0, 0, 0], [90.0, 0, 0]]).double()
        pair = model.predict(Data(z=torch.tensor([6, 6]), pos=pos))
        assert pair[model.target].isfinite().all()
        if model.target == "energy" and model.readout.reduce == "sum":
            assert torch.allclose(pair["energy"], 2 * alone["energy"])


def test_nothing_at_all(model):
    out = model(torch.empty(0, dtype=torch.long), torch.empty(0, 3).double())
    assert out.shape == (1, 1)
    assert out.item() == 0


def test_trailing_molecules_without_atoms(energy_model):
    data = random_molecule(4)
    batch = torch.zeros(4, dtype=torch.long)
    out = energy_model(data.z, data.pos, batch, batch_size=3)
    assert out.shape == (3, 1)
    assert not out[1:].any()
    empty = Data(z=torch.empty(0, dtype=torch.long), pos=torch.empty(0, 3).double())
    result = energy_model.predict(Batch.from_data_list([data, empty, empty]))
    assert torch.allclose(result["energy"], out.squeeze(1))
    assert result["forces"].shape == (4, 3)


def test_padding_contributes_nothing(model):
    data = random_molecule(6)
    padded = Data(
        z=torch.cat([data.z[:3], torch.zeros(2, dtype=torch.long), data.z[3:]]),
        pos=torch.cat([data.pos[:3], torch.zeros(2, 3).double(), data.pos[3:]]),
    )
    before, after = model.predict(data), model.predict(padded, energies=True)
    assert torch.allclose(after[model.target], before[model.target], rtol=1e-12)
    assert not after["energies"][3:5].any()
    if "forces" in before:
        assert torch.allclose(after["forces"][[0, 1, 2, 5, 6, 7]], before["forces"], atol=1e-12)
        assert not after["forces"][3:5].any()
    out = model(padded.z, padded.pos)
    out.backward()
    assert not model.embedding.weight.grad[0].any()


def test_any_dimension():
    model = small_model()
    plane = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 2
    z = torch.tensor([1, 6, 7, 8, 1])
    embedded = torch.cat([plane, torch.zeros(5, 1)], dim=1)
    assert torch.allclose(model(z, plane), model(z, embedded), rtol=1e-12)


def test_forces_need_positions_with_gradients():
    with pytest.raises(RuntimeError, match="require gradients"):
        forces_from_energy(torch.zeros(1), torch.zeros(2, 3))


def test_dipole_vanishes_with_a_finite_gradient():
    model = small_model(dipole=True, target="mu")
    pos = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    out = model(torch.tensor([6]), pos)
    (gradient,) = torch.autograd.grad(out.sum(), pos)
    assert out.item() == 0
    assert gradient.isfinite().all()
    assert math.isfinite(out.item())


@pytest.mark.parametrize("mode", ["table", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hessian_by_batched_gradients(mode, dtype):
    """``vectorize=True`` differentiates all forces in one pass, against one after the other."""
    model, data = small_model(mode=mode).to(dtype), random_molecule(5, dtype=dtype)

    def energy(pos):
        return model(data.z, pos).sum()

    expected = torch.autograd.functional.hessian(energy, data.pos)
    actual = torch.autograd.functional.hessian(energy, data.pos, vectorize=True)
    assert expected.abs().max() > 0.1
    assert torch.allclose(actual, expected, rtol=RTOL[dtype], atol=1e-5 * float(dtype.itemsize < 8))


def test_batched_gradients_of_tables_are_refused_with_a_remedy():
    model, data = small_model(mode="table"), random_molecule(5)
    weight = model.interactions[0].conv.filter.lin1.weight
    with pytest.raises(RuntimeError, match="cannot be batched"):
        torch.autograd.grad(
            model(data.z, data.pos), weight, torch.ones(2, 1, 1).double(), is_grads_batched=True
        )
