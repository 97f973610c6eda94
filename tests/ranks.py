r"""What several processes train in ``training/test_distributed.py``, and one to compare with.

    python tests/ranks.py SCENARIO SIZE FOLDER

Each process writes what it found into the folder; scenarios are the functions below. The agent of
``torchrun`` starts the processes, but as copies of this one: importing PyTorch and PyG anew in each
would take most of the time.
"""

import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from matplotlib.figure import Figure
from molecules import random_molecule, small_model
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch_geometric.data import Data

from pyg_schnet import SchNet
from pyg_schnet.training import TrainConfig, evaluate, fit, reporting
from pyg_schnet.training.distributed import World

RANK, SIZE = 0, 1

KINDS = {
    "energies": {},
    "energies and forces": {"energy_weight": 0.01, "force_weight": 1.0},
    "forces": {"energy_weight": 0.0, "force_weight": 1.0},
}


def molecules(sizes: list[int]) -> list[Data]:
    """Molecules with made-up labels."""
    made = []
    for i, size in enumerate(sizes):
        data = random_molecule(size, seed=i)
        generator = torch.Generator().manual_seed(i)
        data.energy = torch.randn(1, generator=generator).double() - 40.0 * size
        data.force = torch.randn(size, 3, generator=generator).double()
        made.append(data)
    return made


TRAIN = molecules([5, 3, 1, 6, 2, 4, 7, 3, 5, 2, 6, 1, 4, 5, 3, 2, 8])
VALIDATION = molecules([4, 2, 5, 3, 1, 6, 7, 4])
CONFIG = TrainConfig(
    **KINDS["energies and forces"], epochs=4, batch_size=4, lr=5e-3, eval_batch_size=3
)


def network(dtype: torch.dtype = torch.float64) -> SchNet:
    """The same in all processes but for the weights, which are to be those of rank 0."""
    model = small_model(mean=None, std=None, atomref=None).to(dtype)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * RANK)
    return model


def noisy_network() -> SchNet:
    """A network whose results depend on random numbers."""
    model = network()
    model.embedding.register_forward_hook(
        lambda module, args, out: torch.nn.functional.dropout(out, 0.2, module.training)
    )
    return model


@contextmanager
def before_each_step(action: Callable[[int, list[torch.Tensor | None]], None]) -> Iterator[None]:
    """Calls ``action(number, gradients)`` before each step of an optimiser."""
    count = 0

    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        nonlocal count
        count += 1
        slots = [p for group in optimizer.param_groups for p in group["params"]]
        action(count, [None if p.grad is None else p.grad.clone() for p in slots])

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def message(action: Callable[[], Any]) -> str:
    """Type and text of the error of an action."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def gradients(kind: str, dtype: torch.dtype) -> dict:
    """Of a batch of seven molecules, of which some have no labels, and of a batch of two."""
    found: list = []
    train = [data.clone() for data in TRAIN[:9]]
    train[2].energy[0] = train[3].force[2, 1] = float("nan")
    model = network(dtype)
    config = TrainConfig(**KINDS[kind], epochs=1, batch_size=7, seed=0)
    with before_each_step(lambda number, gradient: found.append(gradient)):
        fit(model, train, VALIDATION, config)
    return {"gradients": found, "bias": model.readout.lin2.bias.detach()}


def history(folder: Path) -> dict:
    """A whole run."""
    model = network()
    rows = fit(model, TRAIN, VALIDATION, CONFIG, folder / f"whole{SIZE}")
    return {"history": rows, "state": model.state_dict()}


def part(folder: Path, max_steps: int | None) -> dict:
    """A run that several numbers of processes go on with."""
    model, config = network(), replace(CONFIG, max_steps=max_steps)
    resume = (folder / "chain").exists()
    rows = fit(model, TRAIN, VALIDATION, config, folder / "chain", resume=resume)
    return {"history": rows, "state": model.state_dict()}


def noisy(folder: Path) -> dict:
    """The same random numbers in every run, also in one that was interrupted."""
    seen: list[float] = []

    def draw(module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            seen.append(torch.rand(()).item())

    def model(seed: int = 5) -> SchNet:
        made = noisy_network()
        torch.manual_seed(seed)
        made.embedding.register_forward_hook(draw)
        return made

    config = replace(CONFIG, epochs=2)
    whole = fit(model(), TRAIN, VALIDATION, config)
    numbers = list(seen)
    again = fit(model(), TRAIN, VALIDATION, config)
    here = folder / f"noisy{SIZE}"
    fit(model(), TRAIN, VALIDATION, replace(config, max_steps=3), here)
    resumed = fit(model(seed=6), TRAIN, VALIDATION, config, here, resume=True)
    return {"whole": whole, "again": again, "resumed": resumed, "numbers": numbers}


def evaluation() -> list[dict]:
    """Predictions and errors of a data set in uneven shares, and of one molecule."""
    with World.current() as world:
        found = []
        for dataset, batch_size in ((VALIDATION, 3), (VALIDATION[:1], 3), (VALIDATION, 1)):
            torch.manual_seed(0)
            model = SchNet(8, 8, 1, 8, cutoff=4.0)
            result = evaluate(model, dataset, batch_size=batch_size, forces=True, world=world)
            found.append({"energies": result, "forces": result.forces})
    return found


def timed() -> list[dict]:
    """A budget of time, whose learning rates follow the clock."""
    config = TrainConfig(max_time=0.4, schedule="cosine", batch_size=4, eval_epochs=3)
    return fit(network(), TRAIN, VALIDATION, config)


def errors(folder: Path) -> dict[str, str]:
    """What all processes say when something is wrong."""
    wild = [data.clone() for data in TRAIN]
    wild[10].force[2, 1] = 1e200
    keep = replace(CONFIG, offsets="keep")
    (folder / "file").touch()
    used = folder / f"used{SIZE}"
    used.mkdir(exist_ok=True)
    lock = FileLock(used / ".lock")
    if RANK == 0:
        lock.acquire()
    in_use = message(lambda: fit(network(), TRAIN, VALIDATION, CONFIG, used))
    lock.release()
    fit(network(), TRAIN, VALIDATION, replace(CONFIG, max_steps=1), used)
    return {
        "in use": in_use,
        "divergence": message(lambda: fit(network(), wild, VALIDATION, keep, folder / f"w{SIZE}")),
        "settings": message(
            lambda: fit(network(), TRAIN, VALIDATION, replace(CONFIG, lr=1e-3 * (1 + RANK)))
        ),
        "writing": message(
            lambda: fit(network(), TRAIN, VALIDATION, CONFIG, folder / "file" / "run")
        ),
    }


def failing(folder: Path) -> dict[str, str]:
    """One process has an error that the others do not have."""

    def fail(number: int, gradients: list) -> None:
        if number == 6 and RANK == SIZE - 1:
            raise KeyError("no such thing")

    with before_each_step(fail):
        return {
            "error": message(
                lambda: fit(network(), TRAIN, VALIDATION, CONFIG, folder / f"failing{SIZE}")
            )
        }


def first(folder: Path) -> dict:
    """Who makes a file, and who finds it."""
    path = folder / f"made by the first of {SIZE}"
    with World.current() as world:
        with world.main_first():
            found = path.exists()
            time.sleep(0.2 if RANK == 0 else 0.0)
            path.touch()

        def prepare() -> None:
            with world.main_first():
                if RANK == 0:
                    raise OSError("disk full")

        result = {"found": found, "error": message(prepare)}
    return result | {"in a group": _in_a_group(folder)}


def _in_a_group(folder: Path) -> list[bool]:
    """The same twice in a process group that users make, whose store remembers the first time."""
    torch.distributed.init_process_group("gloo")
    found = []
    for turn in range(2):
        path = folder / f"made in a group of {SIZE}, turn {turn}"
        with World.current() as world, world.main_first():
            found.append(path.exists())
            time.sleep(0.2 if RANK == 0 else 0.0)
            path.touch()
    torch.distributed.destroy_process_group()
    return found


def compared(folder: Path) -> dict:
    """What any number of processes should find alike."""
    return {
        "gradients": {
            (kind, dtype): gradients(kind, dtype)
            for kind in KINDS
            for dtype in (torch.float64, torch.float32)
        },
        "history": history(folder),
        "part": part(folder, {2: 6, 1: 11, 3: None}[SIZE]),
        "noisy": noisy(folder),
        "evaluation": evaluation(),
    }


def everything(folder: Path) -> dict:
    """All of the above, as each start of processes takes seconds."""
    return compared(folder) | {
        "timed": timed(),
        "errors": errors(folder),
        "failing": failing(folder),
        "first": first(folder),
    }


def killed(folder: Path) -> dict:
    """One process is killed in mid-run."""

    def kill(number: int, gradients: list) -> None:
        if number == 7 and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with before_each_step(kill):
        return {"history": fit(network(), TRAIN, VALIDATION, CONFIG, folder / "killed")}


def endless(folder: Path) -> dict:
    """Runs until it is stopped."""
    config = replace(CONFIG, epochs=100_000)
    return {"history": fit(network(), TRAIN, VALIDATION, config, folder / "endless")}


def work(scenario: str, folder: Path) -> None:
    """What each process does."""
    global RANK, SIZE
    RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        result = globals()[scenario](folder)
    except BaseException:
        traceback.print_exc()  # the agent would keep it in a file
        raise
    torch.save(result, folder / f"{scenario}-{SIZE}-{RANK}.pt")


def start(scenario: str, size: int, folder: Path) -> None:
    """As ``torchrun --standalone --nproc-per-node SIZE`` does."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, work)(scenario, folder)


if __name__ == "__main__":
    reporting.learning_curve = lambda *args: Figure()  # pictures would take half a second of each
    start(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
