"""The loss against its formula, and training on forces."""

import math

import pytest
import torch
from molecules import random_molecule, small_model
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import TrainConfig, evaluate, fit
from pyg_schnet.training.loss import Objective, mean_loss


def loss(model, batch, read, config):
    sums, counts = Objective(model, read, config)(batch)
    return mean_loss(sums, counts), int(counts.max())


def read(batch: Data) -> torch.Tensor:
    return batch.energy


@pytest.fixture
def molecules() -> list[Data]:
    made = []
    for n in (5, 1, 3):
        data = random_molecule(n, seed=n)
        data.energy = torch.tensor([-40.0 - n], dtype=torch.float64)
        data.force = torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).double()
        made.append(data)
    return made


PENALTIES = {
    "mse": lambda x: x * x,
    "l1": abs,
    "huber": lambda x: 0.5 * x * x if abs(x) <= 0.7 else 0.7 * (abs(x) - 0.35),
}


@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("kind", PENALTIES)
def test_formula(molecules, kind, per_atom):
    """One molecule after the other, component by component."""
    model, phi = small_model(), PENALTIES[kind]
    expected = 0.0
    for data in molecules:
        result = model.predict(data)
        error = (result["energy"] - data.energy).item()
        expected += 0.01 * phi(error / (data.num_nodes if per_atom else 1)) / 3
        components = (result["forces"] - data.force).flatten().tolist()
        expected += 2.0 * sum(map(phi, components)) / data.num_nodes / 3
    config = TrainConfig(
        energy_weight=0.01, force_weight=2.0, loss=kind, huber_delta=0.7, per_atom=per_atom
    )
    value, count = loss(model, Batch.from_data_list(molecules), read, config)
    assert count == 3
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_gradient_against_central_differences(molecules):
    model, batch = small_model(mode="table"), Batch.from_data_list(molecules)
    config = TrainConfig.paper(forces=True)
    assert (config.energy_weight, config.force_weight) == (0.01, 1.0)
    loss(model, batch, read, config)[0].backward()
    for parameter in (model.interactions[0].conv.filter.lin1.weight, model.readout.lin1.weight):
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        at = int(gradient.abs().argmax())
        values = []
        for step in (1e-5, -1e-5):
            flat[at] += step
            values.append(loss(model, batch, read, config)[0].item())
            flat[at] -= step
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[at].item(), rel=1e-5)


def test_missing_labels(molecules):
    """Of an energy, and of one component of a force: others count as if these were not there."""
    model, config = small_model(), TrainConfig(energy_weight=0.3, force_weight=1.0)
    molecules[0].energy[0] = math.nan
    molecules[2].force[1, 2] = math.nan
    value, count = loss(model, Batch.from_data_list(molecules), read, config)
    energies = TrainConfig(energy_weight=0.3)
    forces = TrainConfig(energy_weight=0.0, force_weight=1.0)
    expected = loss(model, Batch.from_data_list(molecules[1:]), read, energies)[0]
    expected = expected + loss(model, Batch.from_data_list(molecules[:2]), read, forces)[0]
    assert count == 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_only_forces(molecules):
    """What does not move the atoms gets no gradient, and stays."""
    model = small_model()
    config = TrainConfig(energy_weight=0.0, force_weight=1.0, epochs=2, batch_size=2)
    bias = model.readout.lin2.bias.detach().clone()
    weight = model.readout.lin2.weight.detach().clone()
    fit(model, molecules, molecules, config)
    assert torch.equal(model.readout.lin2.bias, bias)
    assert not torch.equal(model.readout.lin2.weight, weight)


def test_learns_energies_and_forces(tmp_path):
    """Real frames; a run that is interrupted goes on to the same numbers."""
    train = MD17Sample("ethanol", train=True, units="eV", cutoff=5.0)[:150]
    test = MD17Sample("ethanol", train=False, units="eV", cutoff=5.0)[:40]
    config = TrainConfig.paper(forces=True, epochs=8, batch_size=10, lr=5e-3, ema_decay=0.9)

    def network() -> SchNet:
        torch.manual_seed(0)
        return SchNet(16, 16, 2, 20, cutoff=5.0)

    model = network()
    history = fit(model, train, test, config, tmp_path / "whole")
    assert model.units == "eV"
    result = evaluate(model, test, forces=True)
    assert result.forces.units == "eV/Ang"
    assert result.forces.mae == min(row["val_force_mae"] for row in history)
    zero = torch.cat([data.force for data in test]).abs().mean().item()
    assert result.forces.mae < 0.6 * zero
    expected = [model.predict(data)["forces"] - data.force for data in test]
    assert result.forces.mae == pytest.approx(torch.cat(expected).abs().mean().item(), rel=1e-4)

    again = network()
    fit(again, train, test, TrainConfig(**(config.to_dict() | {"epochs": 3})), tmp_path / "parts")
    resumed = fit(again, train, test, config, tmp_path / "parts", resume=True)
    for row, wanted in zip(resumed, history, strict=True):
        assert {**row, "seconds": 0} == {**wanted, "seconds": 0}


def test_errors(molecules):
    config = TrainConfig.paper(forces=True, epochs=1)
    bare = [Data(z=data.z, pos=data.pos, energy=data.energy) for data in molecules]
    with pytest.raises(ValueError, match=r"needs 'force' \[5, 3\] in the data \(got NoneType"):
        fit(small_model(), bare, bare, config)
    with pytest.raises(ValueError, match="not of 'homo'"):
        fit(small_model(target="homo"), molecules, molecules, config)
    frames = MD17Sample("ethanol", train=True)[:5]
    with pytest.raises(ValueError, match="in kcal/mol, the model is in eV"):
        fit(SchNet(8, 8, 1, units="eV"), frames, frames, config)
    with pytest.raises(ValueError, match="must not be zero all at once"):
        TrainConfig(energy_weight=0.0)
    with pytest.raises(ValueError, match="'mse' or 'l1' or 'huber'"):
        TrainConfig(loss="mae")


def copper(num_atoms: int, seed: int) -> Data:
    """A distorted crystal in a skewed cell."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(num_atoms + 3, 3, generator=generator, dtype=torch.float64)
    cell = 3.6 * torch.eye(3, dtype=torch.float64) + 0.5 * noise[-3:]
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.8, 1.8, 0.0], [1.8, 0.0, 1.8]], dtype=torch.float64)
    return Data(
        z=torch.full((num_atoms,), 29),
        pos=pos[:num_atoms] + 0.2 * noise[:num_atoms],
        cell=cell.unsqueeze(0),
        pbc=torch.ones(1, 3, dtype=torch.bool),
        energy=noise[0, :1] - 3.0,
        force=noise[:num_atoms] - 0.5,
        stress=0.1 * noise[-3:].unsqueeze(0),
    )


@pytest.mark.parametrize("mode", ["exact", "table"])
def test_stress(mode):
    """The formula for one crystal after the other, and the gradient by central differences."""
    crystals = [copper(2, 0), copper(3, 1), copper(1, 2)]
    crystals[2].stress[0, 1, 2] = math.nan
    model = small_model(mode=mode)
    config = TrainConfig(energy_weight=0.1, force_weight=0.2, stress_weight=50.0)
    expected = 0.0
    for data in crystals:
        result = model.predict(data, stress=True)
        expected += 0.1 / 3 * (result["energy"] - data.energy).square().item()
        squares = (result["forces"] - data.force).square().sum().item()
        expected += 0.2 / 3 * squares / data.num_nodes
        if data is not crystals[2]:
            expected += 50.0 / 2 * (result["stress"] - data.stress).square().sum().item()
    batch = Batch.from_data_list(crystals)
    value, count = loss(model, batch, read, config)
    assert count == 3
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    parameter = model.interactions[1].conv.filter.lin1.weight
    flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
    at, values = int(gradient.abs().argmax()), []
    for step in (1e-5, -1e-5):
        flat[at] += step
        values.append(loss(model, batch, read, config)[0].item())
        flat[at] -= step
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[at].item(), rel=1e-4)


def test_learns_stress_alone():
    """Energies, forces and stress of a model of other weights."""
    crystals = [copper(1 + seed % 3, seed) for seed in range(8)]
    teacher = small_model()
    for data in crystals:
        result = teacher.predict(data, stress=True)
        data.energy, data.force, data.stress = (result[k] for k in ("energy", "forces", "stress"))
    torch.manual_seed(1)
    model = small_model()
    model.reset_parameters()
    config = TrainConfig(
        energy_weight=0, stress_weight=100.0, epochs=60, batch_size=4, lr=1e-2, eval_epochs=10
    )
    history = fit(model, crystals, crystals, config)
    assert {"val_stress_mae", "val_stress_rmse"} <= history[0].keys()
    result = evaluate(model, crystals, stress=True)
    assert result.stress.units is None
    errors = [row["val_stress_mae"] for row in history]
    assert result.stress.mae == min(errors) < 0.5 * errors[0]


def test_stress_of_what_has_none(molecules):
    model = small_model()
    with pytest.raises(ValueError, match=r"'stress' needs 'stress' \[1, 3, 3\] in the data"):
        fit(model, molecules, molecules, TrainConfig(stress_weight=1.0, epochs=1))
    molecules[0].stress = torch.zeros(1, 3, 3)
    with pytest.raises(ValueError, match="stress needs periodic systems"):
        loss(model, molecules[0], read, TrainConfig(stress_weight=1.0))
