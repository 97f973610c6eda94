"""Means and standard deviations against NumPy; what does not fit together is refused."""

import copy

import numpy as np
import pytest
import torch
from molecules import MODELS, random_molecule, small_model
from torch_geometric.data import Batch

from pyg_schnet import Ensemble, SchNet


def different_models(count=3, **overrides) -> list[SchNet]:
    models = []
    for seed in range(count):
        models.append(small_model(units="eV", **overrides))
        torch.manual_seed(seed)
        models[-1].reset_parameters()
    return models


@pytest.mark.parametrize("kind", list(MODELS))
def test_mean_and_standard_deviation(kind, batch):
    models = different_models(**MODELS[kind])
    result = Ensemble(models).predict(batch, energies=True)
    single = [model.predict(batch, energies=True) for model in models]
    assert set(result) == {name + end for name in single[0] for end in ("", "_std")}
    for name in single[0]:
        values = np.stack([one[name].numpy() for one in single])
        for actual, expected in (
            (result[name], values.mean(axis=0)),
            (result[f"{name}_std"], values.std(axis=0, ddof=1)),
        ):
            assert actual.dtype == single[0][name].dtype
            assert np.allclose(actual.numpy(), expected, rtol=1e-10, atol=1e-12)
        assert kind == "dipole" or result[f"{name}_std"].max() > 1e-3


def test_stress():
    models = different_models(2)
    data = random_molecule(4)
    data.cell, data.pbc = 5.0 * torch.eye(3).double().unsqueeze(0), torch.ones(1, 3).bool()
    result = Ensemble(models).predict(data, stress=True)
    first, second = (model.predict(data, stress=True)["stress"] for model in models)
    assert torch.allclose(result["stress"], (first + second) / 2)
    assert torch.allclose(result["stress_std"], (first - second).abs() / 2**0.5)


def test_mean_force_is_that_of_the_mean_energy():
    ensemble, data = Ensemble(different_models()), random_molecule(5)
    moved = [copy.copy(data) for _ in range(2)]
    for sign, other in zip((-1, 1), moved):
        other.pos = data.pos.clone()
        other.pos[2, 1] += sign * 1e-4
    below, above = (ensemble.predict(other, forces=False)["energy"] for other in moved)
    force = ensemble.predict(data)["forces"][2, 1]
    assert force.item() == pytest.approx(((below - above) / 2e-4).item(), rel=1e-6)


def test_equal_members_do_not_disagree():
    model = small_model()
    ensemble = Ensemble([model, copy.deepcopy(model)])
    result = ensemble.predict(random_molecule(4))
    assert not result["energy_std"].any()
    assert not result["forces_std"].any()


def test_is_a_module():
    models = different_models()
    ensemble = Ensemble(models).float().freeze()
    assert list(ensemble) == models
    assert ensemble[1] is models[1]
    assert len(ensemble) == 3
    assert (ensemble.target, ensemble.units, ensemble.cutoff) == ("energy", "eV", 4.0)
    assert all(model.embedding.weight.dtype == torch.float32 for model in models)
    assert all(conv.is_frozen for model in models for conv in model._convs)
    assert repr(ensemble).startswith("Ensemble(3 x SchNet(hidden_channels=12")
    data = Batch.from_data_list([random_molecule(4), random_molecule(3)])
    with torch.inference_mode():
        inside = ensemble.predict(data)
    assert torch.equal(inside["forces_std"], ensemble.predict(data)["forces_std"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model, "units", "Hartree"), "same units .got eV in member 0 and Ha"),
        (lambda model: model.species[7].fill_(False), "same species"),
        (lambda model: model.float(), "same dtype"),
    ],
)
def test_members_must_fit_together(change, said):
    models = different_models()
    change(models[2])
    with pytest.raises(ValueError, match=said):
        Ensemble(models)


@pytest.mark.parametrize(
    "overrides", [{"cutoff": 5.0}, {"readout": "mean"}, {"envelope": "polynomial"}, {"target": "U"}]
)
def test_members_must_mean_the_same(overrides):
    with pytest.raises(ValueError, match=f"same {next(iter(overrides))}"):
        Ensemble([small_model(units="eV"), small_model(units="eV", **overrides)])


def test_other_networks_with_the_same_meaning_may_differ():
    wide = small_model(units="eV", hidden_channels=20, num_interactions=3)
    result = Ensemble([small_model(units="eV"), wide]).predict(random_molecule(3))
    assert result["energy_std"] > 0


def test_needs_several_networks():
    model = small_model()
    for members in ([], [model], [model, model]):
        with pytest.raises(ValueError, match="two or more different networks"):
            Ensemble(members)
    with pytest.raises(TypeError, match=r"member 1 must be a SchNet .got Linear"):
        Ensemble([model, torch.nn.Linear(1, 1)])
