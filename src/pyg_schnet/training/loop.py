r"""The training loop, to be read from top to bottom."""

import copy
import csv
import io
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Sampler
from torch_geometric.data import Batch
from tqdm import tqdm

from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.readout import AtomwiseReadout
from ..ops import keep_freed_memory
from ..storage import write_atomically
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .evaluation import Evaluation, evaluate
from .labels import (
    Labelled,
    LabelReader,
    Molecules,
    check_units,
    fit_offsets,
    label_reader,
    label_units,
    learn_species,
)
from .loss import force_labels, force_scale, loss, penalty


def fit(
    model: SchNet,
    train: Molecules,
    val: Molecules,
    config: TrainConfig | None = None,
    directory: str | Path | None = None,
    *,
    resume: bool = False,
) -> list[dict[str, float]]:
    r"""Trains a model, and leaves it with the averaged weights of the best epoch so far.

    1. Offsets and known species of the model are set from the training set.
    2. Every epoch goes through the training set in a new order. The loss is that of
       :mod:`pyg_schnet.training.loss`, of energies, forces or both; missing labels (NaN) are left
       out.
    3. A moving average of the weights is validated; the best one is kept.

    With a directory the run writes ``config.json``, ``history.csv``, ``best.safetensors`` (for
    :meth:`SchNet.load`) and, after every epoch and when interrupted by SIGINT or SIGTERM,
    ``last.safetensors``, from which it resumes to the same numbers as an uninterrupted run.

    Args:
        model: Model to train, on its device.
        train: Training set.
        val: Validation set, which chooses the best epoch.
        config: Settings; those of the paper by default. A model without ``units`` takes those of
            the data set.
        directory: Where the run is kept; nowhere if ``None``.
        resume: Go on with the run in ``directory``.

    Returns:
        One row per epoch: ``epoch, step, lr, train_loss, val_mae, val_rmse, seconds``, and
        ``val_force_mae, val_force_rmse`` over components where forces are trained. Errors are in
        the unit of the label (per angstrom), the squared loss in squares of it.

    Raises:
        FileExistsError: If the directory holds a run that is not to be resumed.
        FileNotFoundError: If there is no run to resume.
        ValueError: If a data set has no labels, or the run to resume was another one.
        FloatingPointError: If the loss is not finite.
        KeyboardInterrupt: When interrupted, after the checkpoint is complete.
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise TypeError(f"'config' must be a TrainConfig (got {type(config).__name__})")
    directory = None if directory is None else Path(directory)
    data = Labelled.read(train, config.label, "training")
    Labelled.read(val, config.label, "validation")
    check_units(model, train, config.label)
    read = label_reader(train, config.label)

    keep_freed_memory()
    model.train()
    if model.units is None:
        model.units = label_units(train, config.label)
    scale = None
    if config.force_weight > 0:
        _check_forces(model, train, val)
        scale = force_scale(train)
    _prepare(model, data, scale, config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    averaged: SchNet = average.module  # type: ignore[assignment] # untyped in torch
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    order = _NewOrder(len(train), config.seed)
    loader = MoleculeLoader(train, config.batch_size, sampler=order)
    progress, best = _start(model, average, optimizer, config, data.fingerprint, directory, resume)

    def save() -> None:
        if directory is not None:
            last = directory / "last.safetensors"
            save_checkpoint(last, model, average, optimizer, progress, config, data.fingerprint)
            _write_history(directory / "history.csv", progress.history)

    try:
        with _stop_on_signal() as stop:
            while progress.epoch < config.epochs:
                if progress.epoch - progress.best_epoch >= config.patience:
                    break
                started, before = time.monotonic(), progress.seconds
                for batch in _batches(loader, config, progress):
                    _step(model, batch, read, optimizer, config, progress)
                    average.update_parameters(model)
                    progress.seconds = before + time.monotonic() - started
                    if stop.is_set():
                        save()
                        raise KeyboardInterrupt(_stopped(directory))

                result = evaluate(
                    *(averaged, val, config.label, config.eval_batch_size),
                    forces=config.force_weight > 0,
                )
                progress.seconds = before + time.monotonic() - started
                progress.finish_epoch(config.learning_rate(progress.step), *_errors(result, config))
                if progress.best_epoch == progress.epoch:
                    best = copy.deepcopy(averaged.state_dict())
                    if directory is not None:
                        averaged.save(directory / "best.safetensors")
                save()
                _report(progress.history[-1], config, model.units)
                if stop.is_set():
                    raise KeyboardInterrupt(_stopped(directory))
    finally:
        if best is not None:
            model.load_state_dict(best)
    return progress.history


def _step(
    model: SchNet,
    batch: Batch,
    read: LabelReader,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    progress: Progress,
) -> None:
    lr = config.learning_rate(progress.step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    value, count = loss(model, batch, read, config)
    if not value.isfinite():
        raise FloatingPointError(
            f"the loss is {value.item()} at step {progress.step} of epoch {progress.epoch + 1}: "
            f"lower 'lr' (now {lr:g}) or check the labels"
        )
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()
    progress.step += 1
    progress.batch += 1
    progress.loss_sum += value.item() * count
    progress.molecules += count


def _check_forces(model: SchNet, *datasets: Molecules) -> None:
    if model.target != "energy":
        raise ValueError(f"forces are derivatives of the energy, not of '{model.target}'")
    for dataset in datasets:
        force_labels(dataset[0])
        check_units(model, dataset, "force", "/Ang")


def _prepare(model: SchNet, data: Labelled, force_scale: float | None, config: TrainConfig) -> None:
    learn_species(model, data.z)
    given = not isinstance(model.readout, AtomwiseReadout) or not model.readout.offsets.is_neutral
    if config.offsets == "fit" and not given:
        fit_offsets(model, data, force_scale)


def _start(
    model: SchNet,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    fingerprint: int,
    directory: Path | None,
    resume: bool,
) -> tuple[Progress, dict[str, Tensor] | None]:
    if directory is None:
        if resume:
            raise ValueError("'resume' needs the 'directory' of the run")
        return Progress(), None
    last = directory / "last.safetensors"
    if resume:
        # Random numbers go on where they were: nothing may draw any after the checkpoint is loaded.
        path, graph = directory / "best.safetensors", model.interaction_graph
        best = type(model).load(path, graph).state_dict() if path.exists() else None
        progress = load_checkpoint(last, model, average, optimizer, config, fingerprint)
        if best is None and progress.best_epoch > 0:
            raise FileNotFoundError(f"'{path}' is missing, the best model of the run to resume")
        return progress, best
    if last.exists():
        raise FileExistsError(
            f"'{directory}' holds a run already: resume it, remove it, or name another directory"
        )
    settings = {"model": model.config, "train": config.to_dict()}
    write_atomically(directory / "config.json", json.dumps(settings, indent=2).encode())
    return Progress(), None


class _NewOrder(Sampler[int]):
    """A new order in each epoch, from seed and epoch alone: a resumed run sees the same batches."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())

    def __len__(self) -> int:
        return self.size


def _batches(loader: MoleculeLoader, config: TrainConfig, progress: Progress) -> Iterator[Batch]:
    """The batches of the present epoch that are left to do."""
    loader.set_epoch(progress.epoch, progress.batch)
    bar = tqdm(
        loader,
        desc=f"epoch {progress.epoch + 1}/{config.epochs}",
        initial=progress.batch,
        total=len(loader),
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    for batch in bar:
        yield batch
        if progress.molecules:
            bar.set_postfix(loss=f"{progress.loss_sum / progress.molecules:.4g}", refresh=False)


def _errors(result: Evaluation, config: TrainConfig) -> tuple[dict[str, float], float]:
    """Validation errors for the history, and the score by which the best epoch is chosen."""
    errors = {"val_mae": result.mae, "val_rmse": result.rmse}
    if result.forces is None:
        return errors, result.mae
    errors |= {"val_force_mae": result.forces.mae, "val_force_rmse": result.forces.rmse}
    phi = penalty(config)
    # The loss of the validation set, as if all of its molecules had the same number of atoms.
    score = 3 * config.force_weight * phi(_known(result.forces)).mean()
    if config.energy_weight > 0:
        score = score + config.energy_weight * phi(_known(result)).mean()
    return errors, float(score)


def _known(result: Evaluation) -> Tensor:
    error = result.predicted - result.reference
    return error[~error.isnan()]


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    if history:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
        write_atomically(path, text.getvalue().encode())


def _stopped(directory: Path | None) -> str:
    if directory is None:
        return "training was stopped by a signal; the model has its best weights so far"
    return f"training was stopped by a signal; go on with fit(..., '{directory}', resume=True)"


def _report(row: dict[str, float], config: TrainConfig, units: str | None) -> None:
    unit = f" {units}" if units else ""
    forces = ""
    if "val_force_mae" in row:
        forces = f"forces {row['val_force_mae']:.5g}{unit + '/Ang' if unit else ''}  "
    tqdm.write(
        f"epoch {row['epoch']:>{len(str(config.epochs))}}/{config.epochs}  "
        f"loss {row['train_loss']:.5g}  val MAE {row['val_mae']:.5g}{unit}  {forces}"
        f"lr {row['lr']:.2e}  {row['seconds']:.0f} s",
        file=sys.stderr,
    )


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event set by SIGINT and SIGTERM, so that steps are never cut in half.

    A second SIGINT stops at once. Other threads than the main one cannot catch signals; there the
    event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
