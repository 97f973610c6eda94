"""Runs on packed batches against ordinary ones: the same history, the same errors."""

import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from training_runs import (
    CONFIG,
    averaging,
    changed,
    molecules_with_gaps,
    new_model,
    paper,
    without_time,
)
from waits import Strangers, Waits, on_meta

from pyg_schnet import RadiusGraph, SchNet, ops
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.training import device, divergence, evaluation, fit, loop
from pyg_schnet.training import run as run_module
from pyg_schnet.training.capture import Captured
from pyg_schnet.training.device import DeviceRun
from pyg_schnet.training.run import Run
from pyg_schnet.training.weights import FlatWeights, MovingAverage

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")


@pytest.fixture(scope="module")
def labelled():
    molecules = molecules_with_gaps()
    return molecules[:50], molecules[50:]


FORCES = dict(force_weight=1.0, energy_weight=0.01, loss="l1", clip_norm=2.0)
CASES = {
    "energies": (new_model, dict(clip_ratio=0.0)),
    "clip_ratio": (new_model, dict(clip_ratio=1.05, lr=1e-2)),
    "clip_norm, decay": (new_model, dict(clip_norm=0.3, weight_decay=0.1, clip_ratio=0.0)),
    "paper": (paper, dict()),
    "per atom, Huber": (averaging, dict(loss="huber", per_atom=True, huber_delta=0.1)),
    "forces": (new_model, FORCES),
    "forces of the paper": (paper, dict(force_weight=1.0, energy_weight=0.01, weight_decay=0.01)),
    "forces alone": (new_model, dict(force_weight=1.0, energy_weight=0.0)),
}


def assert_same(one, two, rtol=2e-5):
    assert len(one) == len(two) > 0
    for a, b in zip(without_time(one), without_time(two), strict=True):
        assert a == pytest.approx(b, rel=rtol)


def runs_of(monkeypatch) -> list[Run]:
    """All runs that begin from now on."""
    runs, begin = [], Run.begin

    def noted(run, resume):
        runs.append(run)
        begin(run, resume)

    monkeypatch.setattr(Run, "begin", noted)
    return runs


@pytest.mark.parametrize("case", CASES)
def test_the_same_history(labelled, case):
    """Of energies and forces, with labels that are unknown, in batches of which the last has 2."""
    make, settings = CASES[case]
    config = changed(CONFIG, label="energy", epochs=3, **settings)
    ordinary, model = make(), make()
    expected = fit(ordinary, *labelled, config, packed=False)
    history = fit(model, *labelled, config, packed=True)
    assert_same(history, expected)
    weights = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (model, ordinary)]
    # Adam makes as large a step of a gradient that is all rounding as of any other.
    assert (weights[0] - weights[1]).norm() < 1e-3 * weights[1].norm()


def test_float64_is_the_same_to_many_digits(labelled):
    config = changed(CONFIG, label="energy", epochs=2, **FORCES)
    models = [new_model().double() for _ in range(2)]
    for model in models:
        model.mode = "table"
    molecules = [[data.clone() for data in part] for part in labelled]
    for data in molecules[0] + molecules[1]:
        data.pos, data.force = data.pos.double(), data.force.double()
    histories = [fit(m, *molecules, config, packed=p) for m, p in zip(models, (False, True))]
    assert_same(*histories, rtol=1e-7)  # but for the rate, which is float32 there


def test_batches_beyond_the_capacities(labelled, monkeypatch):
    """They get a size of their own."""
    config = changed(CONFIG, label="energy", epochs=2, **FORCES)
    expected = fit(new_model(), *labelled, config)
    few = device.Capacity(64, 512)
    monkeypatch.setattr(device.PackedMolecules, "capacities", lambda self, size: [few])
    assert_same(fit(new_model(), *labelled, config, packed=True), expected)


@pytest.mark.parametrize("ways", [(True, True), (True, False), (False, True)])
def test_resumed_in_the_middle_of_an_epoch(parts, tmp_path, ways):
    """By either way, what the other has begun."""
    config = changed(CONFIG, epochs=None, max_steps=10, clip_ratio=1.05)
    whole = fit(new_model(), *parts[:2], config, packed=ways[0])
    for name, steps, way in (("a", 6, ways[0]), ("a", 10, ways[1])):
        part = changed(config, max_steps=steps)
        model = new_model(seed=steps - 6)
        history = fit(model, *parts[:2], part, tmp_path / name, resume=steps > 6, packed=way)
    assert [row["step"] for row in history] == [4, 6, 8, 10]
    rows = [row for row in history if row["step"] != 6]
    assert_same([rows[-1]], [whole[-1]], rtol=1e-4)
    saved = load_file(tmp_path / "a" / "last.safetensors")
    assert saved["average.n_averaged"] == 10
    assert saved["optimizer.0.step"] == 10


def test_resumed_to_the_same_bits(parts, tmp_path):
    config = changed(CONFIG, clip_ratio=1.05)
    whole = fit(new_model(), *parts[:2], config, packed=True)
    fit(new_model(), *parts[:2], changed(config, epochs=2), tmp_path, packed=True)
    again = fit(new_model(seed=3), *parts[:2], config, tmp_path, resume=True, packed=True)
    assert without_time(again) == without_time(whole)


@pytest.mark.parametrize("rows", [3, 256])
def test_a_failed_step_changes_nothing(parts, tmp_path, monkeypatch, rows):
    """It and all after it, until the host reads: weights, optimiser and average are of before."""
    monkeypatch.setattr(device, "_ROWS", rows)
    monkeypatch.setattr(device, "_SECONDS", math.inf)
    train, val, _ = parts
    molecules = [data.clone() for data in train]
    for data in molecules:
        data.idx = torch.tensor([0])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    broken = order[9]  # in the third of fifteen batches
    molecules[broken].y = molecules[broken].y.clone()
    molecules[broken].y[0, 7] = 1e300
    config = changed(CONFIG, label=7, batch_size=4, offsets="keep", save_seconds=0.0)
    states, runs = {}, runs_of(monkeypatch)
    for way in (False, True):
        with pytest.raises(FloatingPointError) as caught:
            fit(new_model(), molecules, val, config, packed=way)
        assert "the loss is inf in batch 3 of epoch 1 (step 2)" in str(caught.value)
        assert f"of molecule {broken} of the training set" in str(caught.value)
        run = runs.pop()
        slots = run.optimizer.state_dict()["state"][0]
        assert run.progress.step == slots["step"] == run.average.n_averaged == 2
        states[way] = [*run.weights.flat, slots["exp_avg"], *run.averaged.parameters()]
    for one, two in zip(states[False], states[True], strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_no_number(parts, tmp_path):
    """Where the loss is finite: its square root of zero has none."""
    model = new_model()
    with torch.no_grad():
        model.readout.lin2.weight.fill_(3e37)
        model.readout.lin1.weight.zero_()
    with pytest.raises(FloatingPointError) as ordinary:
        fit(new_model_like(model), *parts[:2], CONFIG)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, *parts[:2], CONFIG, tmp_path, packed=True)
    assert (
        str(caught.value).split(":")[0].split(" in ")[1:]
        == (str(ordinary.value).split(":")[0].split(" in ")[1:])
    )


def new_model_like(model: SchNet) -> SchNet:
    copy = new_model()
    copy.load_state_dict(model.state_dict())
    return copy


def test_an_explosion_after_the_first_steps(parts, monkeypatch):
    """Found on the device by a limit that the host sets after a hundred steps; here, ten."""
    for module in (device, divergence, run_module):
        monkeypatch.setattr(module, "FIRST", 10)
    train, val, _ = parts
    molecules = [data.clone() for data in train]
    molecules[17].y[0, 7] += 1e6
    messages = []
    for way in (False, True):
        model = new_model()
        model.readout.offsets.set(mean=-40.0, std=10.0)
        config = changed(CONFIG, label=7, batch_size=4, explosion=30.0, epochs=20, lr=1e-7)
        with pytest.raises(FloatingPointError) as caught:
            fit(model, molecules, val, config, packed=way)
        messages.append(str(caught.value))
    assert "times that of the first 10 steps" in messages[0]
    ordinary, packed = (message.split("(see")[1].split("largest loss")[0] for message in messages)
    assert packed == ordinary


def test_signals_stop_it(parts, tmp_path, monkeypatch):
    advance = DeviceRun.advance

    def stopping(run, batch, stop):
        if run.progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(run, batch, stop)

    with monkeypatch.context() as patch:
        patch.setattr(DeviceRun, "advance", stopping)
        with pytest.raises(KeyboardInterrupt, match="go on with fit"):
            fit(new_model(), *parts[:2], CONFIG, tmp_path, packed=True)
    history = fit(new_model(seed=4), *parts[:2], CONFIG, tmp_path, resume=True, packed=True)
    assert_same(history, fit(new_model(), *parts[:2], CONFIG, packed=True), rtol=1e-12)


def test_a_step_never_waits(parts, monkeypatch):
    """But to read the record, once for all steps of an epoch."""
    monkeypatch.setattr(device, "_SECONDS", math.inf)
    counts = []
    train_on = DeviceRun._train_on

    def counted(run, capacity):
        with Waits() as waits:
            train_on(run, capacity)
        counts.append(waits.count)

    monkeypatch.setattr(DeviceRun, "_train_on", counted)
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=1), packed=True)
    assert sum(counts) == 0
    assert len(counts) == 4


@pytest.mark.parametrize("case", ["clip_ratio", "per atom, Huber", "forces of the paper"])
def test_a_step_stays_on_its_device(labelled, monkeypatch, case):
    """Nothing in it is on the host, not even a single number, which a graph would copy but once.

    On the device "meta" nothing has a value: whatever looks at one fails.
    """
    make, settings = CASES[case]
    runs = runs_of(monkeypatch)
    config = changed(CONFIG, label="energy", max_steps=1, **settings)
    fit(make(), *labelled, config, packed=True)
    run = runs.pop()
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # knows no "meta"
    with ops.backend("reference"):
        run.model.to("meta").mode = "table"
        run.weights = FlatWeights(run.model, config.weight_decay)
        run.average = MovingAverage(run.model, run.weights, config.ema_decay)
        run.optimizer = SimpleNamespace(step=lambda: None)  # the fused one needs values
        on_meta(run)
        on_meta(run._packed)
        run._packed.device = torch.device("meta")
        run._train_on(run._capacities[0])  # filters take samples
        with Strangers() as strangers:
            run._train_on(run._capacities[0])
    assert strangers.strange == []
    assert strangers.seen > 300


class Doubled(torch.nn.Linear):
    """A layer that is not the original."""


def test_what_goes_the_ordinary_way(parts, labelled):
    """By itself; and with an error where it must not."""
    hooked, exact, exchanged = new_model(), new_model(), new_model()
    hooked.interactions[0].conv.register_forward_hook(lambda *args: None)
    exact.mode = "exact"
    exchanged.readout.lin1 = Doubled(16, 8)
    graph = SchNet(16, 16, 1, cutoff=4.0, interaction_graph=lambda pos, batch: None)
    for model, reason in (
        (hooked, "a part of the model is not the original, or has hooks"),
        (exchanged, "a part of the model is not the original"),
        (graph, "the model chooses its neighbours"),
        (exact, "filters are evaluated on edges"),
    ):
        with pytest.raises(ValueError, match=f"packed=True, but {reason}"):
            fit(model, *parts[:2], CONFIG, packed=True)
    moving = QM9Sample()[:20].copy()
    moving.transform = RadiusGraph(4.0)
    with pytest.raises(ValueError, match="but the data have a transform: leave 'packed' out"):
        fit(new_model(), moving, parts[1], CONFIG, packed=True)
    padded = [data.clone() for data in labelled[0][:20]]
    padded[3].z[0] = 0
    config = changed(CONFIG, label="energy", epochs=1)
    with pytest.raises(ValueError, match="there are padding atoms"):
        fit(new_model(), padded, labelled[1], config, packed=True)
    fit(new_model(), padded, labelled[1], config)


def test_why_not(parts, monkeypatch, capsys):
    """On a GPU one is told; a model that takes itself for one there will do."""
    monkeypatch.setattr(loop, "_by_default", lambda model: True)
    model = new_model()
    model.mode = "exact"
    fit(model, *parts[:2], changed(CONFIG, epochs=1))
    said = capsys.readouterr().err
    assert "steps wait for the device, since filters are evaluated on edges, not on knots" in said
    runs = runs_of(monkeypatch)
    fit(new_model(), *parts[:2], changed(CONFIG, epochs=1))
    assert "steps wait" not in capsys.readouterr().err
    assert isinstance(runs[0], DeviceRun)


def test_validations(labelled, monkeypatch):
    """Unknown species are told once; what cannot be packed is tried but once."""
    config = changed(CONFIG, label="energy", epochs=3)
    train = [data for data in labelled[0] if not (data.z == 7).any()]
    with pytest.warns(UserWarning, match=r"not trained on: \[7\]") as warned:
        fit(new_model(), train, labelled[1], config, packed=True)
    assert len(warned) == 1
    padded = [data.clone() for data in labelled[1]]
    padded[3].z[0] = 0
    tried, pack = [], evaluation.pack

    def counted(*args):
        tried.append(args)
        return pack(*args)

    monkeypatch.setattr(evaluation, "pack", counted)
    history = fit(new_model(), labelled[0], padded, config, packed=True)
    assert len(tried) == 1
    assert_same(history, fit(new_model(), labelled[0], padded, config))


def test_the_device_of_a_run(parts):
    """The model is moved there, and stays."""
    model = new_model().to("meta").to_empty(device="cpu")
    model.load_state_dict(new_model().state_dict())
    fit(model, *parts[:2], changed(CONFIG, epochs=1), device="cpu")
    assert model.embedding.weight.device.type == "cpu"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("case", CASES)
def test_captured_on_a_gpu(labelled, case, monkeypatch):
    """By default, the same numbers as on the CPU; warnings, of failed captures too, are errors."""
    make, settings = CASES[case]
    config = changed(CONFIG, label="energy", epochs=6, batch_size=10, **settings)
    captured, capture = [], Captured._capture

    def noted(step):
        capture(step)
        captured.append(step.is_captured)

    monkeypatch.setattr(Captured, "_capture", noted)
    expected = fit(make(), *labelled, config, packed=False)
    assert captured == []
    model = make()
    history = fit(model, *labelled, config, device="cuda")
    assert model.embedding.weight.is_cuda
    assert all(captured)
    assert captured
    assert_same(history, expected, rtol=2e-3)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_on_a_gpu_never_waits(labelled, monkeypatch):
    """As the driver sees it, in the steps before the recording."""
    train_on = DeviceRun._train_on

    def strict(run, capacity):
        capturing = torch.cuda.is_current_stream_capturing()
        if run.progress.step > 0 and not capturing:  # the first compiles
            torch.cuda.set_sync_debug_mode("error")
        try:
            train_on(run, capacity)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DeviceRun, "_train_on", strict)
    config = changed(CONFIG, label="energy", epochs=2, **FORCES)
    fit(new_model(), *labelled, config, device="cuda")


@pytest.mark.gpu
@needs_gpu
def test_resumed_on_a_gpu(parts, tmp_path):
    """A run that was begun on the CPU, and one that goes back to it."""
    first = changed(CONFIG, epochs=2)
    fit(new_model(), *parts[:2], first, tmp_path)
    fit(new_model(1), *parts[:2], changed(CONFIG, epochs=4), tmp_path, resume=True, device="cuda")
    last = changed(CONFIG, epochs=6)
    history = fit(new_model(2), *parts[:2], last, tmp_path, resume=True)
    assert_same(history, fit(new_model(), *parts[:2], last), rtol=2e-3)
