import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.storage import CorruptFileError
from pyg_schnet.training import TrainConfig, evaluate, fit


@pytest.fixture(scope="module")
def parts():
    """Small molecules, so that everything is quick."""
    dataset = QM9Sample(cutoff=4.0)
    return random_split(dataset[:90], [60, 20, 10], seed=0)


def new_model(seed: int = 0) -> SchNet:
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, num_gaussians=10, cutoff=4.0, units="eV")


CONFIG = TrainConfig(label="U0", epochs=4, batch_size=16, lr=5e-3, ema_decay=0.9)


def same_state(one: SchNet, two: SchNet) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def without_time(history):
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


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
        average = weight if average is None else 0.7 * average + 0.3 * weight
    assert torch.allclose(model.embedding.weight, average, atol=1e-6)


def test_files_of_a_run(parts, tmp_path):
    history = fit(new_model(), *parts[:2], CONFIG, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "history.csv", "best.safetensors", "last.safetensors"}
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["step"] == 4 * 4
    config = json.loads((tmp_path / "config.json").read_text())
    assert TrainConfig(**config["train"]) == CONFIG
    assert SchNet(**config["model"]).config == new_model().config


def test_resumed_run_equals_the_uninterrupted_one(parts, tmp_path):
    whole, part = new_model(), new_model()
    expected = fit(whole, *parts[:2], CONFIG, tmp_path / "whole")
    short = TrainConfig(**(CONFIG.to_dict() | {"epochs": 2}))
    fit(part, *parts[:2], short, tmp_path / "part")
    resumed = new_model(seed=9)  # other weights: all comes from the checkpoint
    history = fit(resumed, *parts[:2], CONFIG, tmp_path / "part", resume=True)
    assert without_time(history) == without_time(expected)
    assert same_state(resumed, whole)
    for name in ("best", "last"):
        from safetensors.torch import load_file

        one = load_file(tmp_path / "whole" / f"{name}.safetensors")
        two = load_file(tmp_path / "part" / f"{name}.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one if key != "rng")


def test_finished_run_resumes_to_itself(parts, tmp_path):
    model, again = new_model(), new_model(seed=9)
    history = fit(model, *parts[:2], CONFIG, tmp_path)
    assert fit(again, *parts[:2], CONFIG, tmp_path, resume=True) == history
    assert same_state(model, again)


SCRIPT = """
import sys, torch
from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import TrainConfig, fit

train, val = random_split(QM9Sample(cutoff=4.0)[:90], [60, 20], seed=0)
torch.manual_seed(0)
model = SchNet(16, 16, 2, num_gaussians=10, cutoff=4.0, units="eV")
config = TrainConfig(label="U0", epochs=int(sys.argv[2]), batch_size=1, lr=1e-3, ema_decay=0.9)
fit(model, train, val, config, sys.argv[1], resume=sys.argv[3:] == ["resume"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_mid_epoch_and_resumed(tmp_path, number):
    """A real process, stopped by a signal between two steps, loses nothing."""

    def rows(directory: str) -> list[dict]:
        with open(tmp_path / directory / "history.csv") as file:
            return without_time(csv.DictReader(file))

    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(directory: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(tmp_path / directory), *arguments]

    epochs = "4"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with subprocess.Popen(command("part", epochs), **pipes) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "part" / "last.safetensors").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt: training was stopped by a signal; go on with fit" in errors
    assert len(rows("part")) < int(epochs)
    subprocess.run(command("part", epochs, "resume"), check=True, env=environment, timeout=120)
    subprocess.run(command("whole", epochs), check=True, env=environment, timeout=120)
    assert len(rows("whole")) == int(epochs)
    assert rows("part") == rows("whole")


def test_early_stopping(parts):
    config = TrainConfig(label="U0", epochs=50, batch_size=60, lr=1e-12, patience=3, ema_decay=0.0)
    history = fit(new_model(), *parts[:2], config)
    best = min(range(len(history)), key=lambda k: history[k]["val_mae"])
    assert len(history) == best + 1 + 3 < 50


def test_existing_runs_are_not_overwritten(parts, tmp_path):
    fit(new_model(), *parts[:2], CONFIG, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already: resume it"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_resuming_what_is_not_there(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last.safetensors"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)
    with pytest.raises(ValueError, match="'resume' needs the 'directory'"):
        fit(new_model(), *parts[:2], CONFIG, resume=True)


def test_resuming_another_run(parts, tmp_path):
    train, val, test = parts
    fit(new_model(), train, val, CONFIG, tmp_path)
    wide = SchNet(32, 16, 2, num_gaussians=10, cutoff=4.0, units="eV")
    with pytest.raises(ValueError, match="another architecture: hidden_channels was 16 and is 32"):
        fit(wide, train, val, CONFIG, tmp_path, resume=True)
    faster = TrainConfig(**(CONFIG.to_dict() | {"lr": 1.0}))
    with pytest.raises(ValueError, match=r"another training: lr was 0.005 and is 1.0"):
        fit(new_model(), train, val, faster, tmp_path, resume=True)
    others = [data.clone() for data in train]
    others[3].y[0, 7] += 1e-9
    for molecules in (test, others):
        config = (
            CONFIG if molecules is test else TrainConfig(**(CONFIG.to_dict() | {"label": "U0"}))
        )
        with pytest.raises(ValueError, match=r"of other training data|have no number"):
            fit(new_model(), molecules, val, config, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"another dtype: dtype was 'torch.float32' and is"):
        fit(new_model().double(), train, val, CONFIG, tmp_path, resume=True)


def test_resuming_a_damaged_checkpoint(parts, tmp_path):
    fit(new_model(), *parts[:2], CONFIG, tmp_path)
    path = tmp_path / "last.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match="damaged"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)
    (tmp_path / "best.safetensors").rename(path)
    with pytest.raises(CorruptFileError, match="holds a SchNet model, not a training checkpoint"):
        fit(new_model(), *parts[:2], CONFIG, tmp_path, resume=True)


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


def test_exploding_loss_stops_the_run(parts, tmp_path):
    model = new_model()
    with torch.no_grad():
        model.readout.lin2.bias.fill_(1e30)
    with pytest.raises(FloatingPointError, match=r"the loss is (inf|nan) at step \d of epoch 1"):
        fit(model, *parts[:2], TrainConfig(label="U0", epochs=2, lr=1e30), tmp_path)


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
    from pyg_schnet.training import loop

    seen = []
    loss = loop.loss

    def spy(model, batch, read, config):
        value, count = loss(model, batch, read, config)
        seen.append((batch.idx.tolist(), value.item(), count))
        return value, count

    monkeypatch.setattr(loop, "loss", spy)
    history = fit(new_model(), *parts[:2], TrainConfig(label="U0", epochs=2, batch_size=25))
    first, second = seen[:3], seen[3:]
    orders = [[i for indices, _, _ in epoch for i in indices] for epoch in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(data.idx.item() for data in parts[0])
    assert [count for _, _, count in first] == [25, 25, 10]
    for row, epoch in zip(history, (first, second), strict=True):
        expected = sum(value * count for _, value, count in epoch) / 60
        assert row["train_loss"] == pytest.approx(expected)


def test_random_numbers_resume_too(parts, tmp_path):
    """Dropout of a user's own, say, goes on with the numbers that would have come next."""

    def noisy(seed):
        model = new_model(seed)
        model.embedding.register_forward_hook(
            lambda module, args, out: torch.nn.functional.dropout(out, 0.1, module.training)
        )
        return model

    expected = fit(noisy(0), *parts[:2], CONFIG, tmp_path / "whole")
    short = TrainConfig(**(CONFIG.to_dict() | {"epochs": 2}))
    fit(noisy(0), *parts[:2], short, tmp_path / "part")
    history = fit(noisy(5), *parts[:2], CONFIG, tmp_path / "part", resume=True)
    assert without_time(history) == without_time(expected)


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
