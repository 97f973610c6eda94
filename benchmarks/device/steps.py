r"""Training steps with all that goes with them: the loader, the transfer, the edges, the optimiser.

Ours are epochs of ``fit`` on packed batches: with the moving average of the weights, the norm of
the gradient, checks, and a validation of one molecule now and then. PyG's are those that its users
write: ``DataLoader``, ``.to(device)``, loss, Adam (fused). It has no neighbour search without a
package that PyPI lacks, so it is given all pairs of each batch, found on the device by a mask,
which takes less time than to load them.

Times are those of the host over many steps, which end when the device has done them.
"""

import argparse
import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from contenders.common import Contender, Inputs
from loader import read_molecules
from qm9_data import read_file
from report import spread
from roofline import count
from torch import Tensor
from torch_geometric.loader import DataLoader
from worker import about, make

from device.clock import Memory, synchronize

# Epochs that do not count: they compile, and record CUDA graphs.
_WARM_UP = 2
# Steps between two looks at the clock, at least: validation and checkpoints are between them.
_STEPS = 500


class _EnoughError(Exception):
    """All has been measured."""


def measure_steps(name: str, job: dict, device: str) -> dict:
    """Milliseconds per step, and seconds per epoch.

    The job has ``data`` (a file, or ``None`` for the shipped sample), how many ``molecules``,
    ``batch_size``, ``forces``, ``network``, ``seconds``, ``warm_up`` epochs and ``workers`` of
    PyG's loader.
    """
    molecules, label = training_set(job["data"], job["molecules"])
    batches = math.ceil(len(molecules) / job["batch_size"])
    found: dict[str, Any] = {"molecules": len(molecules), "steps_per_epoch": batches}
    memory = Memory(device)
    memory.forget_peak()
    if name == "ours":
        times, extra = ours(molecules, label, job, device)
    else:
        times, extra = peers(name, molecules, job, device)
    found |= spread(times) | {"rounds": len(times), "about": about(name)}
    found |= {"epoch_s": 1e-3 * found["median_ms"] * batches, "memory_mb": memory.peak()}
    return found | extra


@functools.cache  # the same for many jobs
def training_set(data: str | None, number: int) -> tuple[Any, str | int]:
    """Molecules of QM9, and which label is their energy.

    Chosen at random from a file; or from the shipped sample, with forces that are random too, for
    timing only.
    """
    torch.manual_seed(0)
    if data is not None:
        whole = read_file(Path(data), "U0")
        return whole[torch.randperm(len(whole))[:number]], "U0"
    args = argparse.Namespace(data=None, root=None, molecules=number)
    molecules = read_molecules(args)
    molecules._data.y = molecules._data.y[:, :1].double()
    molecules._data.force = torch.randn(molecules._data.pos.shape)
    assert molecules.slices is not None
    molecules.slices["force"] = molecules.slices["pos"]
    return molecules, 0


def ours(molecules: Any, label: str | int, job: dict, device: str) -> tuple[list[float], dict]:
    """Milliseconds per step of rounds of epochs of ``fit``."""
    from pyg_schnet import SchNet
    from pyg_schnet.ops import kernels_for
    from pyg_schnet.training import TrainConfig, fit
    from pyg_schnet.training.device import DeviceRun

    steps = math.ceil(len(molecules) / job["batch_size"])
    epochs = min(math.ceil(_STEPS / steps), job.get("epochs", _STEPS))
    config = TrainConfig.paper(
        forces=job["forces"],
        label=label,
        epochs=1_000_000,
        eval_epochs=epochs,
        batch_size=job["batch_size"],
        lr=1e-5,
    )
    assert job["network"]["gaussians"] == 300  # that of the paper
    begin = time.perf_counter()
    moments: list[float] = []
    extra: dict[str, Any] = {}
    warm_up = math.ceil(job["warm_up"] / epochs)

    def log(row: dict[str, float]) -> None:
        if not moments:
            extra["before_s"] = time.perf_counter() - begin - row["seconds"]
        moments.append(row["seconds"])
        rounds = len(moments) - warm_up
        if rounds > 2 and moments[-1] - moments[warm_up - 1] >= job["seconds"]:
            raise _EnoughError

    train_on, calls = DeviceRun._train_on, 0

    def counted(run: Any, capacity: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first makes what is kept
            kernels = kernels_for(run.weights.flat[0])
            extra["work"] = count(lambda: train_on(run, capacity), kernels)
            extra["capacity"] = {"atoms": capacity.atoms, "edges": capacity.edges}
        else:
            train_on(run, capacity)

    model = SchNet.paper()
    with (
        warnings.catch_warnings(record=True) as heard,
        patch.object(DeviceRun, "_train_on", counted),
    ):
        warnings.simplefilter("always")
        with contextlib.suppress(_EnoughError):
            fit(model, molecules, molecules[:1], config, log=log, device=device, packed=True)
    said = [str(warning.message) for warning in heard if warning.category is UserWarning]
    extra["warnings"] = sorted({text.splitlines()[0] for text in said})
    rounds = zip(moments[warm_up - 1 :], moments[warm_up:])
    return [1e3 * (after - before) / (epochs * steps) for before, after in rounds], extra


def peers(name: str, molecules: Any, job: dict, device: str) -> tuple[list[float], dict]:
    """Milliseconds per step of rounds of epochs of a loop around a contender."""
    contender, optimizer = _compiled_once(name, tuple(job["network"].items()), device)
    contender.prepare_training()
    loader = DataLoader(
        molecules,
        job["batch_size"],
        shuffle=True,
        num_workers=job["workers"],
        pin_memory=device != "cpu",
        persistent_workers=job["workers"] > 0,
    )
    step = contender.force_step if job["forces"] else contender.energy_step
    times: list[float] = []

    def train(batch: Any) -> None:
        step(as_inputs(batch.to(device, non_blocking=True)), optimizer)

    rounds = _rounds(loader, train, device)
    begun = time.perf_counter()
    for number, milliseconds in enumerate(rounds):
        if number < job["warm_up"]:
            begun = time.perf_counter()
            continue
        times.append(milliseconds)
        if len(times) > 2 and time.perf_counter() - begun >= job["seconds"]:
            break
    return times, {}


def _rounds(loader: Any, step: Callable[[Any], object], device: str) -> Iterator[float]:
    """Milliseconds per step of one epoch after the other."""
    while True:
        synchronize(device)
        begin = time.perf_counter()
        for batch in loader:
            step(batch)
        synchronize(device)
        yield 1e3 * (time.perf_counter() - begin) / len(loader)


@functools.cache
def _compiled_once(
    name: str, network: tuple, device: str
) -> tuple[Contender, torch.optim.Optimizer]:
    torch.manual_seed(0)
    contender = make(name)
    contender.build(dict(network))
    contender.model.to(device)
    return contender, torch.optim.Adam(contender.model.parameters(), lr=1e-5, fused=True)


def as_inputs(batch: Any) -> Inputs:
    """A batch of PyG's loader, with all pairs of its molecules."""
    return Inputs(
        batch.z,
        batch.pos,
        batch.batch,
        all_pairs(batch.batch),
        batch.y.view(-1).float(),
        batch.force,
        batch.num_graphs,
    )


def all_pairs(batch: Tensor) -> Tensor:
    """Edges ``[2, E]`` between all atoms of each molecule, by target; the host waits for them."""
    same = batch.unsqueeze(0) == batch.unsqueeze(1)
    return same.fill_diagonal_(False).nonzero().T.flip(0)
