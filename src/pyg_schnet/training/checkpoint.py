r"""Checkpoints: everything a run needs to go on as if nothing had happened."""

import copy
import inspect
import os
import shutil
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ..nn import SchNet, files
from ..storage import CorruptFileError, load_tensors, save_tensors
from .config import TrainConfig
from .distributed import LostProcessError, World
from .random_state import restore_random_state

_KIND = "training checkpoint"
LAST = "last.safetensors"
# What the header has, and of which kind.
_HEADER: dict[str, type] = {
    "model": dict,
    "train": dict,
    "progress": dict,
    "param_groups": list,
    "fingerprints": dict,
    "dtype": str,
}


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Epochs completed.
        batch: Batches done in the present epoch.
        step: Steps done in all.
        loss_sum: Sum of the losses since the last validation, weighted by molecules.
        molecules: Molecules seen since.
        first_losses: Losses of the first steps of the run.
        usual_norm: Moving average of the norm of the gradient, where it is needed.
        seconds: Time spent so far.
        best_epoch: Epoch of the lowest validation score.
        best_score: That score.
        history: One row per validation.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    molecules: int = 0
    first_losses: list[float] = field(default_factory=list)
    usual_norm: float = 0.0
    seconds: float = 0.0
    best_epoch: float = 0.0
    best_score: float = float("inf")
    history: list[dict[str, float]] = field(default_factory=list)

    @cached_property
    def first_median(self) -> float:
        """Median of the first losses, to be asked for when these are complete."""
        return statistics.median(self.first_losses)

    @property
    def validated(self) -> bool:
        """Whether the present weights have been validated."""
        return bool(self.history) and self.history[-1]["step"] == self.step

    def check(self) -> None:
        """Compares the fields with what they are at the start of a run.

        Raises:
            TypeError: If one is of another kind.
        """
        for one in fields(self):
            value, usual = getattr(self, one.name), getattr(Progress(), one.name)
            numbers = isinstance(usual, int | float)
            right = isinstance(value, int | float) if numbers else isinstance(value, type(usual))
            if not right or (type(usual) is int and value != int(value)):
                raise TypeError(f"'{one.name}' of the progress is {value!r}")

    def enter(self, epoch: float, lr: float, errors: dict[str, float], score: float) -> bool:
        """Enters a validation in the history.

        Args:
            epoch: Epochs done, a fraction within one.
            lr: The learning rate.
            errors: Validation errors by the names of their columns.
            score: What the best model has the least of.

        Returns:
            Whether this is the best model so far.
        """
        loss = self.loss_sum / max(self.molecules, 1)
        row = {"epoch": epoch, "step": self.step, "lr": lr, "train_loss": loss}
        self.history.append({**row, **errors, "seconds": self.seconds})
        self.loss_sum, self.molecules = 0.0, 0
        if not score < self.best_score:
            return False
        self.best_epoch, self.best_score = epoch, score
        return True


def save_checkpoint(
    directory: Path,
    model: SchNet,
    average: AveragedModel,
    best: dict[str, Tensor] | None,
    optimizer: Optimizer,
    progress: Progress,
    config: TrainConfig,
    fingerprints: dict[str, int],
    random: list[dict[str, Tensor]],
) -> None:
    """Saves a run in one file, ``last.safetensors``, atomically.

    Earlier ones become ``last-1.safetensors`` and so on, as many as the settings want to keep.

    Args:
        directory: Where to.
        model: Model in training.
        average: Moving average of its weights.
        best: Weights of the best model so far, if there is one.
        optimizer: Optimiser with its state.
        progress: Where the run stands.
        config: Settings of the run.
        fingerprints: Checksums of the data sets by name, to notice others on resuming.
        random: States of the random numbers of each process, by device.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    state = optimizer.state_dict()
    tensors |= {
        f"optimizer.{index}.{name}": value
        for index, slots in state["state"].items()
        for name, value in slots.items()
    }
    tensors |= {
        f"{_random_name(rank)}{device}": state
        for rank, states in enumerate(random)
        for device, state in states.items()
    }
    header = {
        "model": model.config,
        "train": config.to_dict(),
        "progress": asdict(progress),
        # As it is on the host: a run on a GPU may go on elsewhere.
        "param_groups": [
            group | {"lr": float(group["lr"]), "capturable": False}
            for group in state["param_groups"]
        ],
        "fingerprints": fingerprints,
        "dtype": str(model.dtype),
    }
    _keep_earlier(directory, config.keep_last)
    save_tensors(directory / LAST, tensors, header, _KIND)


def _earlier(directory: Path, age: int) -> Path:
    return directory / (f"last-{age}.safetensors" if age else LAST)


def _keep_earlier(directory: Path, keep: int) -> None:
    """Renames earlier checkpoints. The last one stays in its place until the new one is there."""
    for age in range(keep - 1, 0, -1):
        path = _earlier(directory, age - 1)
        if not path.exists():
            continue
        if age > 1:
            os.replace(path, _earlier(directory, age))
            continue
        copy = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            os.link(path, copy)
        except OSError:  # not all file systems have links
            shutil.copyfile(path, copy)
        os.replace(copy, _earlier(directory, age))


def load_checkpoint(
    directory: Path,
    model: SchNet,
    average: AveragedModel,
    optimizer: Optimizer,
    config: TrainConfig,
    fingerprints: dict[str, int],
    world: World,
) -> tuple[Progress, dict[str, Tensor] | None]:
    """Restores a run in place.

    Args:
        directory: Where :func:`save_checkpoint` wrote it.
        model: Model of the same architecture.
        average: Moving average, restored.
        optimizer: Optimiser of the same parameters, restored.
        config: Settings; those that shape the run must be those of the checkpoint.
        fingerprints: Checksums of the data sets by name.
        world: Processes that resume; they need not be as many as there were.

    Returns:
        Where the run stands, and the weights of the best model so far.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If the file is damaged.
        ValueError: If model, settings or data are not those of the checkpoint.
    """
    path = directory / LAST
    tensors, header = world.from_main(lambda: _load(path))
    # What a checkpoint of an earlier version does not state has its default in this one.
    architecture = _defaults(type(model), model.config) | header["model"]
    _compare(path, "architecture", _differences(architecture, model.config))
    dtype = str(model.dtype)
    _compare(path, "dtype", _differences({"dtype": header["dtype"]}, {"dtype": dtype}))
    _compare(path, "training", config.differences(header["train"]))
    for name, saved in header["fingerprints"].items():
        if saved != fingerprints.get(name):
            raise ValueError(
                f"'{path}' is a checkpoint of other {name} data: resume with the same molecules "
                "in the same order, or start in another directory"
            )
    best = _below(tensors, "best.") or None
    try:
        progress = Progress(**header["progress"])
        progress.check()
        model.load_state_dict(_below(tensors, "model."))
        average.load_state_dict(_below(tensors, "average."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(tensors, "optimizer.").items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = value
        _check_slots(slots, optimizer)
        optimizer.load_state_dict({"state": slots, "param_groups": header["param_groups"]})
        if best is not None:
            copy.deepcopy(model).load_state_dict(best)
        states = _below(tensors, _random_name(world.rank))
        if states:
            restore_random_state(states, model.device)
        else:
            world.seed_apart(tensors[f"{_random_name(0)}cpu"])
    except LostProcessError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError),
        *(RuntimeError, TypeError, ValueError),
    ) as error:
        raise CorruptFileError(
            f"'{path}' is damaged: a part of the run is missing or of another kind "
            f"({type(error).__name__}: {error})"
        ) from error
    return progress, best


def _check_slots(slots: dict[int, dict[str, Tensor]], optimizer: Optimizer) -> None:
    """Refuses states of other parameters, which the optimiser would take."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, state in slots.items():
        for name, value in state.items():
            if value.numel() not in (1, parameters[index].numel()):
                raise ValueError(f"'{name}' of parameter {index} has {value.numel()} numbers")
            if not value.is_floating_point():
                raise TypeError(f"'{name}' of parameter {index} holds {value.dtype}")


def load_averaged(path: Path) -> SchNet:
    """The model of a training checkpoint, with the moving average of its weights.

    Args:
        path: File that :func:`save_checkpoint` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If it is damaged or no training checkpoint.
    """
    tensors, header = _load(path)
    weights = _below(tensors, "average.module.")
    model = files.build(SchNet, path, header["model"], weights)
    files.fill(model, path, weights)
    return model


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors, header = load_tensors(path, _KIND)
        for name, kind in _HEADER.items():
            if not isinstance(header.get(name), kind):
                raise CorruptFileError(
                    f"'{path}' is damaged: '{name}' in its header should be a {kind.__name__} (got "
                    f"{type(header.get(name)).__name__})"
                )
        return tensors, header
    except CorruptFileError as error:
        earlier = _earlier(path.parent, 1)
        if path.name == LAST and earlier.exists():
            raise CorruptFileError(f"{error}. '{earlier}' is the one before: rename it") from error
        raise


def _random_name(rank: int) -> str:
    return f"rng.{rank}."


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _defaults(kind: type, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named arguments of a constructor that have one."""
    parameters = inspect.signature(kind).parameters
    known = {name: parameters[name].default for name in names if name in parameters}
    return {name: value for name, value in known.items() if value is not inspect.Parameter.empty}


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (saved.get(name), now.get(name))
        for name in saved | now
        if saved.get(name) != now.get(name)
    }


def _compare(path: Path, what: str, differences: dict[str, tuple[Any, Any]]) -> None:
    if differences:
        listing = ", ".join(
            f"{name} was {saved!r} and is {now!r}" for name, (saved, now) in differences.items()
        )
        raise ValueError(
            f"'{path}' is a checkpoint of another {what}: {listing}. "
            "Resume with the same settings, or start in another directory"
        )
