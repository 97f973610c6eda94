"""Training and evaluation on data that have forces and no energies."""

import math

import pytest
import torch
from molecules import random_molecule, small_model
from torch.utils.tensorboard import SummaryWriter
from torch_geometric.data import Data, InMemoryDataset
from training_runs import changed, same_state, without_time

from pyg_schnet import SchNet
from pyg_schnet.datasets import MD17Sample, MoleculeDataset
from pyg_schnet.plot import learning_curve
from pyg_schnet.training import Labelled, TrainConfig, evaluate, fit, label_reader
from pyg_schnet.training.validation_table import ValidationTable

CONFIG = TrainConfig(
    energy_weight=0.0, force_weight=1.0, epochs=3, batch_size=8, lr=5e-3, ema_decay=0.5
)


def network(seed: int = 0) -> SchNet:
    torch.manual_seed(seed)
    return SchNet(16, 16, 1, num_gaussians=16, cutoff=4.0)


def without_energies(dataset) -> InMemoryDataset:
    """As from a file that has none."""
    molecules = [Data(z=data.z, pos=data.pos, force=data.force) for data in dataset]
    return MoleculeDataset(molecules, units={"force": "kcal/mol/Ang"})


@pytest.fixture(scope="module")
def ethanol() -> tuple[MD17Sample, MD17Sample]:
    sample = MD17Sample("ethanol", train=True)
    return sample[:40], sample[40:60]


@pytest.fixture(scope="module")
def forces(ethanol):
    return tuple(map(without_energies, ethanol))


@pytest.fixture(params=["absent", "all NaN", "list"])
def bare(request, ethanol, forces):
    """Data without energies, in every way."""
    if request.param == "absent":
        return forces
    if request.param == "list":
        return tuple(map(list, forces))
    parts = [[data.clone() for data in part] for part in ethanol]
    for part in parts:
        for data in part:
            data.energy[:] = math.nan
    return tuple(parts)


def test_forces_are_learnt_and_reported_alone(bare, tmp_path, capsys):
    train, val = bare
    model = network()
    history = fit(model, train, val, CONFIG, tmp_path)
    assert set(history[0]) == {
        *("epoch", "step", "lr", "train_loss", "seconds", "val_force_mae", "val_force_rmse")
    }
    assert all(math.isfinite(value) for row in history for value in row.values())
    offsets = model.readout.offsets
    every = torch.cat([data.force for data in train]).double()
    assert offsets.std.item() == pytest.approx(every.square().mean().sqrt().item(), rel=1e-6)
    assert (offsets.mean, offsets.atomref.any()) == (0, False)
    # By the predictions one by one.
    result = evaluate(model, val, forces=True)
    found = [model.predict(data)["forces"] - data.force for data in val]
    mae = torch.cat(found).abs().mean().item()
    assert result.forces.mae == pytest.approx(mae, rel=1e-5)
    assert result.forces.mae == min(row["val_force_mae"] for row in history)
    assert result.forces.mae < torch.cat([data.force for data in val]).abs().mean()
    # Nothing has an error of energies, nor a number that is none.
    assert not result.known
    with pytest.raises(ValueError, match="no molecule has a label"):
        _ = result.mae
    assert repr(result).startswith("Evaluation(no labels, ")
    assert f"forces=Evaluation(mae={result.forces.mae:.6g}" in repr(result)
    shown = capsys.readouterr().err
    assert "no 'energy' is known: it is learnt up to a constant" in shown
    assert "MAE forces" in shown
    assert "MAE energy" not in shown
    assert "nan" not in shown
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,val_force_mae,val_force_rmse,seconds"
    assert [axes.get_ylabel() for axes in learning_curve(history).axes] == [
        "force error",
        "training loss",
    ]


def test_energies_do_not_matter(ethanol, forces):
    """With energies the numbers are the same, but for the constant."""
    ours, theirs = network(), network()
    scale = Labelled.read(ethanol[0], "energy")
    assert scale.known
    ours.readout.offsets.set(std=20.0)
    theirs.readout.offsets.set(std=20.0)
    without = fit(ours, *forces, CONFIG)
    with_energies = fit(theirs, *ethanol, CONFIG)
    for row, wanted in zip(without, with_energies, strict=True):
        assert row["val_force_mae"] == wanted["val_force_mae"]
        assert math.isfinite(wanted["val_mae"])
    assert same_state(ours, theirs)
    assert ours.units == theirs.units == "kcal/mol"  # which follows from that of the forces


def test_patience_is_by_forces(forces):
    config = changed(CONFIG, epochs=40, lr=1e-12, patience=2, batch_size=40, ema_decay=0.0)
    model = network()
    history = fit(model, *forces, config)
    losses = [row["val_force_rmse"] for row in history]
    assert len(history) == losses.index(min(losses)) + 3 < 40


def test_a_run_goes_on(forces, tmp_path):
    expected = fit(network(), *forces, CONFIG)
    fit(network(), *forces, changed(CONFIG, epochs=1), tmp_path)
    history = fit(network(seed=9), *forces, CONFIG, tmp_path, resume=True)
    assert without_time(history) == without_time(expected)


def test_energies_that_only_the_validation_set_has(ethanol, forces):
    """Those of the model are known up to a constant, so that no error would mean anything."""
    history = fit(network(), forces[0], ethanol[1], changed(CONFIG, epochs=1))
    assert not {"val_mae", "val_rmse"} & set(history[0])


def test_some_energies_go_on_as_always(ethanol):
    """Missing ones are left out; those that are there make references, and errors."""
    train, val = ([data.clone() for data in part] for part in ethanol)
    for data in (*train[:30], *val[:10]):
        data.energy[:] = math.nan
    model = network()
    history = fit(model, train, val, changed(CONFIG, epochs=1))
    assert model.readout.offsets.mean + model.readout.offsets.atomref.abs().sum() > 1.0
    assert history[0]["val_mae"] == pytest.approx(evaluate(model, val[10:]).mae, rel=1e-6)


def test_energies_that_are_asked_for(forces, ethanol):
    """Nobody misses them by mistake."""
    remedy = r"Forces alone can be learnt, with energy_weight=0 \(--energy-weight 0\)"
    for config in (TrainConfig(epochs=1), TrainConfig.paper(forces=True, epochs=1)):
        with pytest.raises(ValueError, match=f"no number or tensor 'energy' .*{remedy}"):
            fit(network(), *forces, config)
    unknown = [data.clone() for data in ethanol[0]]
    for data in unknown:
        data.energy[:] = math.nan
    with pytest.raises(ValueError, match=f"training set has no label 'energy'.*{remedy}"):
        fit(network(), unknown, unknown, TrainConfig(epochs=1))
    with pytest.raises(ValueError, match=r"no number or tensor 'energy'.* forces=True"):
        evaluate(network(), forces[1])
    # A name that nobody has is no energy that is missing.
    with pytest.raises(ValueError, match="no number or tensor 'enrgy'"):
        fit(network(), *forces, changed(CONFIG, label="enrgy"))
    with pytest.raises(ValueError, match="no number or tensor 'enrgy'"):
        evaluate(network(), forces[1], "enrgy", forces=True)


def test_energies_of_some_molecules_without_the_field():
    molecules = [random_molecule(3), random_molecule(4)]
    molecules[1].energy = torch.zeros(1)
    with pytest.raises(ValueError, match="0 in molecule 0 of the data set, 1 in molecule 1"):
        Labelled.read(molecules, "energy", required=False)
    assert label_reader(molecules, "energy", energy_optional=True)(
        molecules[0]
    ).isnan().tolist() == [True]


def test_forces_without_units():
    molecules = [random_molecule(n, seed=n) for n in (3, 4, 5)]
    for data in molecules:
        data.force = torch.ones(data.num_nodes, 3).double()
    model = small_model(mean=None, std=None, atomref=None)
    fit(model, molecules, molecules, changed(CONFIG, epochs=1))
    assert model.units is None
    assert model.readout.offsets.std == 1.0


def test_tables_of_forces_alone():
    row = dict(epoch=1, step=10, lr=1e-3, train_loss=0.5, val_force_mae=0.25, val_force_rmse=1.0)
    text = ValidationTable("energy", "eV").line(row | {"seconds": 1.0})
    header, units, line = text.splitlines()
    assert "MAE forces" in header
    assert "energy" not in header
    assert units.split() == ["eV/Ang"]
    assert line.split()[:4] == ["1", "10", "0.5", "0.25"]


def test_scalars_of_forces_alone(forces, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    tags: list[str] = []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda self, tag, *rest: tags.append(tag))
    fit(network(), *forces, changed(CONFIG, epochs=1), tmp_path)
    assert {tag for tag in tags if tag.startswith("val")} == {"val/force_mae", "val/force_rmse"}
