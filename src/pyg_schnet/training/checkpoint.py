r"""Checkpoints: everything a run needs to go on as if nothing had happened."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ..nn import SchNet
from ..storage import load_tensors, save_tensors
from .config import TrainConfig

_KIND = "training checkpoint"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Epochs completed.
        batch: Batches done in the present epoch.
        step: Steps done in all.
        loss_sum: Sum of the losses of the present epoch, weighted by molecules.
        molecules: Molecules seen in the present epoch.
        seconds: Time spent so far.
        best_epoch: Epoch of the lowest validation score.
        best_score: That score.
        history: One row per completed epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    molecules: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = float("inf")
    history: list[dict[str, float]] = field(default_factory=list)

    def finish_epoch(self, lr: float, errors: dict[str, float], score: float) -> None:
        """Enters the present epoch in the history and begins the next.

        Args:
            lr: Learning rate at its end.
            errors: Validation errors by the names of their columns.
            score: What the best epoch has the least of.
        """
        self.epoch += 1
        self.history.append(
            {
                "epoch": self.epoch,
                "step": self.step,
                "lr": lr,
                "train_loss": self.loss_sum / max(self.molecules, 1),
                **errors,
                "seconds": self.seconds,
            }
        )
        if score < self.best_score:
            self.best_epoch, self.best_score = self.epoch, score
        self.batch, self.loss_sum, self.molecules = 0, 0.0, 0


def save_checkpoint(
    path: Path,
    model: SchNet,
    average: AveragedModel,
    optimizer: Optimizer,
    progress: Progress,
    config: TrainConfig,
    fingerprint: int,
) -> None:
    """Saves a run in one file, atomically.

    Args:
        path: File to write.
        model: Model in training.
        average: Moving average of its weights.
        optimizer: Optimiser with its state.
        progress: Where the run stands.
        config: Settings of the run.
        fingerprint: Checksum of the training set, to notice another one on resuming.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    state = optimizer.state_dict()
    tensors |= {
        f"optimizer.{index}.{name}": value
        for index, slots in state["state"].items()
        for name, value in slots.items()
    }
    tensors["rng"] = torch.get_rng_state()
    header = {
        "model": model.config,
        "train": config.to_dict(),
        "progress": asdict(progress),
        "param_groups": state["param_groups"],
        "fingerprint": fingerprint,
        "dtype": str(model.embedding.weight.dtype),
    }
    save_tensors(path, tensors, header, _KIND)


def load_checkpoint(
    path: Path,
    model: SchNet,
    average: AveragedModel,
    optimizer: Optimizer,
    config: TrainConfig,
    fingerprint: int,
) -> Progress:
    """Restores a run in place.

    Args:
        path: File that :func:`save_checkpoint` wrote.
        model: Model of the same architecture.
        average: Moving average, restored.
        optimizer: Optimiser of the same parameters, restored.
        config: Settings; those that shape the run must be those of the checkpoint.
        fingerprint: Checksum of the training set.

    Returns:
        Where the run stands.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If the file is damaged.
        ValueError: If model, settings or data are not those of the checkpoint.
    """
    tensors, header = load_tensors(path, _KIND)
    _compare(path, "architecture", _differences(header["model"], model.config))
    dtype = str(model.embedding.weight.dtype)
    _compare(path, "dtype", _differences({"dtype": header["dtype"]}, {"dtype": dtype}))
    _compare(path, "training", config.differences(header["train"]))
    if header["fingerprint"] != fingerprint:
        raise ValueError(
            f"'{path}' is a checkpoint of other training data: resume with the same molecules in "
            "the same order, or start in another directory"
        )
    model.load_state_dict(_below(tensors, "model."))
    average.load_state_dict(_below(tensors, "average."))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": header["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return Progress(**header["progress"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


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
