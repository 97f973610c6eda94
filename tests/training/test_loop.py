import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training_runs import CONFIG, changed, new_model, same_state, without_time

from pyg_schnet import SchNet
from pyg_schnet.training import TrainConfig, evaluate, fit
from pyg_schnet.training.run import Run


def test_learns_and_leaves_the_best_averaged_weights(parts, tmp_path):
    train, val, test = parts
    model = new_model()
    config = TrainConfig(label="U0", epochs=25, batch_size=16, lr=5e-3, ema_decay=0.9)
    history = fit(model, train, val, config, tmp_path)
    best = min(history, key=lambda row: row["val_mae"])
    assert best["val_mae"] < 0.7 * history[0]["val_mae"]
    assert evaluate(model, val, "U0").mae == best["val_mae"]
    assert same_state(model, SchNet.load(tmp_path / "best.safetensors"))
    assert evaluate(model, test, "U0").mae < 2.0


def test_the_average_differs_from_the_last_weights(parts):
    averaged, plain = new_model(), new_model()
    settings = dict(label="U0", epochs=1, batch_size=16, lr=5e-3)
    fit(averaged, *parts[:2], TrainConfig(**settings, ema_decay=0.9))
    fit(plain, *parts[:2], TrainConfig(**settings, ema_decay=0.0))
    # One epoch of 4 steps: the average is x_1 0.9^3 + ..., far from x_4.
    assert not torch.allclose(averaged.embedding.weight, plain.embedding.weight, atol=1e-4)


def test_the_moving_average_by_hand(parts):
    """Adam and the average, recomputed step by step in plain PyTorch."""
    train, val, _ = parts
    model = new_model()
    fit(model, train, val, TrainConfig(label="U0", epochs=1, batch_size=30, ema_decay=0.7, seed=3))

    from torch_geometric.data import Batch

    from pyg_schnet.training import Labelled, fit_offsets

    other = new_model()
    fit_offsets(other, Labelled.read(train, "U0"))
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    order = torch.randperm(60, generator=generator)
    average = None
    for step, chunk in enumerate(order.split(30)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.96 ** (step / 100_000)
        batch = Batch.from_data_list([train[i] for i in chunk.tolist()])
        loss = (other(batch.z, batch.pos, batch.batch)[:, 0] - batch.y[:, 7]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weight = other.embedding.weight.detach().clone()
        # The decay begins low: the first weights are random.
        decay = min(0.7, (1 + step) / (10 + step))
        average = weight if average is None else decay * average + (1 - decay) * weight
    assert torch.allclose(model.embedding.weight, average, atol=1e-6)


def test_files_of_a_run(parts, tmp_path):
    history = fit(new_model(), *parts[:2], CONFIG, tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {"tensorboard"}
    expected = {"config.json", "history.csv", "best.safetensors", "last.safetensors"}
    assert names == expected | {"learning_curve.png", ".lock"}
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["step"] == 4 * 4
    config = json.loads((tmp_path / "config.json").read_text())
    assert TrainConfig(**config["train"]) == CONFIG
    assert SchNet(**config["model"]).config == new_model().config


def test_reports_of_a_run(parts, capsys):
    rows = []
    history = fit(
        new_model(), *parts[:2], changed(CONFIG, epochs=None, max_steps=10), log=rows.append
    )
    assert rows == history
    header, units, *lines = capsys.readouterr().err.splitlines()
    assert "MAE U0" in header
    assert units.split() == ["eV"]
    assert [line.split()[:2] for line in lines] == [["1", "4"], ["2", "8"], ["2.50", "10"]]
    errors = [row["val_mae"] for row in history]
    best = [k for k in range(3) if errors[k] == min(errors[: k + 1])]
    assert [k for k in range(3) if lines[k].endswith("best")] == best


def test_early_stopping(parts, capsys):
    config = TrainConfig(label="U0", epochs=50, batch_size=60, lr=1e-12, patience=3, ema_decay=0.0)
    history = fit(new_model(), *parts[:2], config)
    best = min(range(len(history)), key=lambda k: history[k]["val_mae"])
    assert len(history) == best + 1 + 3 < 50
    assert "stopped: nothing got better for 3 epochs" in capsys.readouterr().err
    # Patience is endless unless it is given.
    fit(new_model(), *parts[:2], changed(config, patience=None, epochs=best + 5))
    assert "stopped" not in capsys.readouterr().err


def test_every_step_has_the_rate_of_the_schedule(parts):
    """As the optimiser gets it: of ten steps, after a warm-up of two."""
    rates = []

    def spy(optimizer, args, kwargs):
        rates.append({group["lr"] for group in optimizer.param_groups})

    handle = register_optimizer_step_pre_hook(spy)
    settings = dict(lr=1e-2, epochs=None, max_steps=10)
    try:
        fit(
            *(new_model(), *parts[:2]),
            changed(CONFIG, **settings, schedule="cosine", lr_min=1e-3, warmup_steps=2),
        )
        fit(new_model(), *parts[:2], changed(CONFIG, **settings, lr_decay=0.5, lr_decay_steps=2))
    finally:
        handle.remove()
    assert all(len(groups) == 1 for groups in rates)
    found = [groups.pop() for groups in rates]
    warm_up = [1 / 3, 2 / 3] + [1] * 8
    cosine = [1e-3 + 9e-3 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)]
    assert found[:10] == pytest.approx([a * b for a, b in zip(warm_up, cosine, strict=True)])
    assert found[10:] == pytest.approx([1e-2 * 0.5 ** (k / 2) for k in range(10)])


def test_budget_of_steps(parts):
    """60 molecules are 4 steps an epoch: 10 steps end in the middle of the third."""
    history = fit(new_model(), *parts[:2], changed(CONFIG, epochs=None, max_steps=10))
    assert [(row["epoch"], row["step"]) for row in history] == [(1, 4), (2, 8), (2.5, 10)]
    whole = fit(new_model(), *parts[:2], changed(CONFIG, epochs=2, max_steps=10))
    assert [row["step"] for row in whole] == [4, 8]


def test_budget_of_time(parts):
    """The cosine ends with the time, whatever the number of steps."""
    settings = dict(epochs=None, max_time="1.5s", schedule="cosine", lr_min=1e-9, eval_epochs=10**6)
    history = fit(new_model(), *parts[:2], changed(CONFIG, **settings))
    assert len(history) == 1
    assert 1.5 <= history[0]["seconds"] < 4
    assert history[0]["step"] > 4
    assert history[0]["lr"] == pytest.approx(1e-9)


def test_validations_every_few_epochs(parts):
    history = fit(new_model(), *parts[:2], changed(CONFIG, epochs=5, eval_epochs=2))
    assert [row["epoch"] for row in history] == [2, 4, 5]
    often = fit(new_model(), *parts[:2], changed(CONFIG, epochs=5))
    # Validation does not touch training.
    assert [row["val_mae"] for row in history] == [often[i]["val_mae"] for i in (1, 3, 4)]
    mean = sum(row["train_loss"] for row in often[:2]) / 2
    assert history[0]["train_loss"] == pytest.approx(mean)


def test_clipping_and_weight_decay_by_hand(parts):
    """One step of each, recomputed in plain PyTorch."""
    train, val, _ = parts
    settings = dict(epochs=1, batch_size=60, lr=1e-2, weight_decay=3.0, clip_norm=0.05)
    model, other = new_model(), new_model()
    fit(model, train, val, changed(CONFIG, **settings))

    from torch_geometric.data import Batch

    from pyg_schnet.training import Labelled, fit_offsets

    fit_offsets(other, Labelled.read(train, "U0"))
    batch = Batch.from_data_list(list(train))
    (other(batch.z, batch.pos, batch.batch)[:, 0] - batch.y[:, 7]).square().mean().backward()
    gradients = {name: p.grad for name, p in other.named_parameters()}
    norm = torch.stack([grad.norm() for grad in gradients.values()]).norm()
    assert norm > 0.1
    trained = dict(model.named_parameters())
    for name, before in other.named_parameters():
        # The first step of Adam is along the sign of the gradient, whatever its length: but for
        # elements next to nothing, where epsilon counts.
        grad = gradients[name] * 0.05 / norm
        expected = before * (1 - 1e-2 * 3.0) if "lin" in name and before.dim() == 2 else before
        expected = expected - 1e-2 * grad / (grad.abs() + 1e-8)
        assert torch.allclose(trained[name], expected, atol=2e-5), name


def test_clipping_by_the_usual_norm_by_hand(parts):
    """Gradients of leaping norms, recomputed in plain PyTorch: the labels of some are far off."""
    train = [data.clone() for data in parts[0]]
    for data in train[::7]:
        data.y[0, 7] += 40.0
    settings = dict(batch_size=4, lr=1e-3, lr_decay=1.0, clip_ratio=1.2, ema_decay=0.0)
    model, other = new_model(), new_model()
    fit(model, train, parts[1], TrainConfig(label=7, epochs=1, explosion=0, **settings))

    from torch_geometric.data import Batch

    from pyg_schnet.training import Labelled, fit_offsets

    fit_offsets(other, Labelled.read(train, 7))
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    usual, clipped = 0.0, 0
    for chunk in torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(4):
        batch = Batch.from_data_list([train[i] for i in chunk.tolist()])
        optimizer.zero_grad()
        (other(batch.z, batch.pos, batch.batch)[:, 0] - batch.y[:, 7]).square().mean().backward()
        norm = float(torch.stack([p.grad.norm() for p in other.parameters()]).norm())
        usual = usual or norm
        longest = 1.2 * usual
        if norm > longest:
            clipped += 1
            for parameter in other.parameters():
                parameter.grad *= longest / norm
        usual = 0.99 * usual + 0.01 * min(norm, longest)
        optimizer.step()
    assert 3 <= clipped <= 12
    for (name, trained), expected in zip(model.named_parameters(), other.parameters()):
        assert torch.allclose(trained, expected, atol=1e-5), name


def test_missing_labels_are_masked(parts):
    """Molecules without a label do not change the gradient, wherever their NaN would spread."""
    train, val, _ = parts
    known = [data.clone() for data in train[:10]]
    holes = [data.clone() for data in train[10:16]]
    for data in holes:
        data.y[0, 7] = math.nan
    settings = dict(label=7, epochs=1, batch_size=16, ema_decay=0.0)
    with_holes, without = new_model(), new_model()
    from pyg_schnet.training import Labelled, fit_offsets

    for model in (with_holes, without):
        fit_offsets(model, Labelled.read(known, 7))
    fit(with_holes, known + holes, val, TrainConfig(**settings))
    fit(without, known, val, TrainConfig(**settings))
    for one, two in zip(with_holes.parameters(), without.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_useless_labels_are_noticed_before_training(parts):
    train, val, _ = parts
    broken = [data.clone() for data in val]
    broken[7].y[0, 7] = math.inf
    config = TrainConfig(label=7, epochs=1)
    with pytest.raises(ValueError, match="molecule 7 of the training set has the label inf"):
        fit(new_model(), broken, val, config)
    for data in broken:
        data.y[:] = math.nan
    with pytest.raises(ValueError, match="the validation set has no label '7'"):
        fit(new_model(), train, broken, config)
    with pytest.raises(ValueError, match="the training set is empty"):
        fit(new_model(), [], val, config)
    with pytest.raises(ValueError, match="the validation set is empty"):
        fit(new_model(), train, train[:0], config)
    with pytest.raises(TypeError, match=r"'config' must be a TrainConfig \(got dict\)"):
        fit(new_model(), train, val, {"epochs": 3})
    model = new_model()
    model.units = "kcal/mol"
    with pytest.raises(ValueError, match="labels 'U0' are in eV, the model is in kcal/mol"):
        fit(model, train, val, TrainConfig(label="U0", epochs=1))


def test_units_are_taken_from_the_data(parts):
    model = SchNet(16, 16, 1, cutoff=4.0)
    fit(model, *parts[:2], TrainConfig(label="U0", epochs=1))
    assert model.units == "eV"


def test_every_epoch_has_its_own_order_and_loss(parts, monkeypatch):
    seen = []
    step = Run.step

    def spy(run, batch, stop):
        value, count = step(run, batch, stop)
        seen.append((batch.idx.tolist(), value, count))
        return value, count

    monkeypatch.setattr(Run, "step", spy)
    history = fit(new_model(), *parts[:2], TrainConfig(label="U0", epochs=2, batch_size=25))
    first, second = seen[:3], seen[3:]
    orders = [[i for indices, _, _ in epoch for i in indices] for epoch in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(data.idx.item() for data in parts[0])
    assert [count for _, _, count in first] == [25, 25, 10]
    for row, epoch in zip(history, (first, second), strict=True):
        expected = sum(value * count for _, value, count in epoch) / 60
        assert row["train_loss"] == pytest.approx(expected)


def test_frozen_models_train_like_others(parts):
    frozen, plain = new_model().freeze(), new_model()
    history = fit(frozen, *parts[:2], CONFIG)
    assert without_time(history) == without_time(fit(plain, *parts[:2], CONFIG))
    assert evaluate(frozen, parts[1], "U0").mae == min(row["val_mae"] for row in history)


def test_fine_tuning_keeps_the_species_it_knew(parts):
    model = new_model()
    fit(model, *parts[:2], TrainConfig(label="U0", epochs=1))
    before = model.species.clone()
    few = [data for data in parts[0] if set(data.z.tolist()) <= {1, 6}]
    assert few
    fit(model, few, few, TrainConfig(label=7, epochs=1))
    assert torch.equal(model.species, before)


def test_offsets_given_by_the_user_are_kept(parts):
    model = new_model()
    model.readout.offsets.set(mean=-300.0)
    fit(model, *parts[:2], TrainConfig(label="U0", epochs=1))
    assert model.readout.offsets.mean == -300.0
    plain = new_model()
    fit(plain, *parts[:2], TrainConfig(label="U0", epochs=1, offsets="keep"))
    assert plain.readout.offsets.is_neutral


def test_species_of_the_training_set_are_remembered(parts, tmp_path):
    model = new_model()
    fit(model, *parts[:2], CONFIG, tmp_path)
    present = {int(z) for data in parts[0] for z in data.z}
    assert set(model.species.nonzero().flatten().tolist()) == present | {0}
    loaded = SchNet.load(tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="not trained on atomic number 16"):
        loaded(torch.tensor([16]), torch.zeros(1, 3))


def test_repeatable(parts, tmp_path: Path):
    one, two = new_model(), new_model()
    history = fit(one, *parts[:2], CONFIG)
    assert without_time(fit(two, *parts[:2], CONFIG)) == without_time(history)
    assert same_state(one, two)


COMPILED = """
from numba.core import event
from training_runs import CONFIG, changed, molecules_with_gaps, new_model
from pyg_schnet.training import fit
from pyg_schnet.training.run import Run

class Kernels(event.Listener):
    def __init__(self):
        self.names = {False: set(), True: set()}

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("pyg_schnet."):
            self.names[begun].add(function.__name__)

    def on_end(self, event):
        pass

def begin(run, resume):
    global begun
    start(run, resume)
    begun = True

begun, kernels, start = False, Kernels(), Run.begin
event.register("numba:compile", kernels)
Run.begin = begin
molecules = molecules_with_gaps()
config = changed(CONFIG, label="energy", max_steps=2)
fit(new_model(), molecules[:50], molecules[50:], config)
assert "spline" in kernels.names[False], kernels.names
print(sorted(kernels.names[True]))
"""


@pytest.mark.slow
def test_the_clock_runs_when_kernels_are_compiled(tmp_path):
    """On a machine that has none yet."""
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
