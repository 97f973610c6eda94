r"""A run in progress: its state, a step, a validation."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch_geometric.data import Batch

from ..loader import MoleculeLoader
from ..nn import SchNet
from ..nn.files import BEST
from ..storage import write_atomically
from .checkpoint import LAST, Progress, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .distributed import World
from .divergence import FIRST, check_gradient, check_loss
from .evaluation import Evaluation, evaluate
from .labels import LabelReader, Molecules
from .loss import Objective, mean_loss
from .order import BatchOrder
from .random_state import random_state
from .weights import FlatWeights, MovingAverage

# Weight of a step in the moving average of the norm of the gradient.
NORM_MEMORY = 0.01


class Run:
    """What a checkpoint holds, and how it changes.

    Args:
        model: Model to train, its offsets set.
        read: Reads the labels.
        order: Order of the training set.
        config: Settings.
        directory: Where the run is kept, if anywhere.
        fingerprints: Checksums of the data sets by name.
        world: The processes that train.
        with_labels: Whether the training set has labels at all, and so their errors are of use.

    Attributes:
        progress: Where the run stands.
        averaged: The model with the moving average of the weights.
        best: Weights of the best model so far.
        saved_step: Step of the last checkpoint, if there is one.
        stopped: Whether a process has got a signal to stop.
        loader: Loads the training set in that order.
        report: Called with the loss of each step, and the number of molecules that it is of.
        note: What to tell people as it begins, if anything.
    """

    def __init__(
        self,
        model: SchNet,
        read: LabelReader,
        order: BatchOrder,
        config: TrainConfig,
        directory: Path | None,
        fingerprints: dict[str, int],
        world: World,
        with_labels: bool = True,
    ):
        self.model, self.order, self.config = model, order, config
        self.loader: MoleculeLoader | None = None
        self.note: str | None = None
        self.report: Callable[[float, int], object] = lambda loss, molecules: None
        self.with_labels = with_labels
        self.directory, self.fingerprints, self.world = directory, fingerprints, world
        self.objective = Objective(model, read, config)
        self._parallel: nn.Module | None = None
        self.weights = FlatWeights(model, config.weight_decay)
        self.average = MovingAverage(model, self.weights, config.ema_decay)
        self.averaged: SchNet = self.average.module  # type: ignore[assignment] # untyped in torch
        self.optimizer = torch.optim.AdamW(self.weights.groups, lr=config.lr, fused=True)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.saved_step: int | None = None
        self.stopped = False
        self._best_saved = True
        self._begun, self._saved = time.monotonic(), 0.0

    def begin(self, resume: bool) -> None:
        """Starts from the beginning, or from the last checkpoint.

        Raises:
            FileExistsError: If the directory holds a run that is not to be resumed.
            FileNotFoundError: If there is no run to resume.
            ValueError: If the run to resume was another one, or there is no directory.
        """
        if resume:
            if self.directory is None:
                raise ValueError("'resume' needs the 'directory' of the run")
            self.world.from_main(self._sweep)
            # Random numbers go on where they were: nothing may draw any after this.
            self.progress, self.best = load_checkpoint(
                *(self.directory, self.model, self.average, self.optimizer),
                *(self.config, self.fingerprints, self.world),
            )
            self._best_saved = False  # the file may be of later, of what is to come again
            self.saved_step = self.progress.step
        else:
            self.world.seed_apart(self.world.from_main(torch.get_rng_state))
            self.world.from_main(self._settle)
            self.save()
        self._begun = time.monotonic() - self.progress.seconds
        self._saved = self.progress.seconds

    def _sweep(self) -> None:
        """Removes what a killed process was writing."""
        assert self.directory is not None
        for unfinished in self.directory.glob("*.part"):
            unfinished.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Takes the directory for a new run."""
        if self.directory is None:
            return
        if (self.directory / LAST).exists():
            raise FileExistsError(
                f"'{self.directory}' holds a run already: resume it, remove it, or name "
                "another directory"
            )
        settings = {"model": self.model.config, "train": self.config.to_dict()}
        text = json.dumps(settings, indent=2)
        write_atomically(self.directory / "config.json", text.encode())

    @property
    def spent(self) -> bool:
        """Whether a budget of steps or time is used up."""
        done = self.progress.step >= (self.config.max_steps or float("inf"))
        return done or self.progress.seconds >= self.config.time_limit

    @property
    def finished(self) -> bool:
        """Whether any budget or patience is used up."""
        return self.spent or self.progress.epoch >= self.config.epoch_limit or self.stale

    @property
    def stale(self) -> bool:
        """Whether nothing got better for so long that patience is used up."""
        progress, patience = self.progress, self.config.patience
        if patience is None or not progress.history:
            return False
        return progress.history[-1]["epoch"] - progress.best_epoch >= patience

    @property
    def lr(self) -> float:
        """The present learning rate."""
        progress = self.progress
        fraction = self.config.fraction(progress.step, progress.seconds, len(self.order))
        return self.config.learning_rate(progress.step, fraction)

    def batches(self) -> Iterator[Any]:
        """What is left of the epoch, for :meth:`advance`."""
        assert self.loader is not None
        self.loader.set_epoch(self.progress.epoch, self.progress.batch)
        return iter(self.loader)

    def advance(self, batch: Any, stop: Event) -> None:
        """Takes a step, see :meth:`step`, and reports it."""
        self.report(*self.step(batch, stop))

    def step(self, batch: Batch, stop: Event) -> tuple[float, int]:
        """Trains on a batch.

        Args:
            batch: What this process has of the batch.
            stop: Whether this process is to stop, which then all do.

        Returns:
            The loss, and the number of molecules with labels, of all processes.

        Raises:
            FloatingPointError: If loss or gradient are not finite, or the loss explodes; the model
                is as it was.
        """
        lr = self.lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._parallel is None:
            self._parallel = self.world.parallel(self.objective, batch)
        sums, counts = self._parallel(batch)
        value, loss, count = self._shared(sums, counts, stop)
        check_loss(self, batch, loss)
        self.weights.zero_grad()
        with self.world.communicating():
            value.backward()
        norm = self.weights.gradient_norm()
        length = norm.item()
        check_gradient(self, batch, length)
        if length > (longest := self._longest(length)):
            clip_grads_with_norm_(self.weights.flat, longest, norm)
        self.optimizer.step()
        self.weights.changed()
        self.average.update()
        self._count(loss, count)
        return loss, count

    def _count(self, loss: float, count: int) -> None:
        """Notes a step that was taken."""
        progress = self.progress
        if progress.step < FIRST:
            progress.first_losses.append(loss)
        progress.step += 1
        progress.batch += 1
        progress.loss_sum += loss * count
        progress.molecules += count

    def _longest(self, norm: float) -> float:
        """The norm that the gradient may have, when it has this one."""
        config, progress = self.config, self.progress
        longest = config.clip_norm or math.inf
        if config.clip_ratio > 0:
            usual = progress.usual_norm or norm
            longest = min(longest, config.clip_ratio * usual)
            # Of what is left of it, so that no leap makes the next one usual.
            progress.usual_norm = usual + NORM_MEMORY * (min(norm, longest) - usual)
        return longest

    def _shared(self, sums: Tensor, counts: Tensor, stop: Event) -> tuple[Tensor, float, int]:
        """What to differentiate, and the loss and number of molecules of all processes.

        One message carries all that the processes have to agree upon in a step: these, whether one
        of them is to stop, and the time by the clock of rank 0.
        """
        seconds = time.monotonic() - self._begun
        if self.world.size == 1:
            self.stopped, self.progress.seconds = stop.is_set(), seconds
            value = mean_loss(sums, counts)
            return value, value.item(), int(counts.max())
        if self.order.stands_in(self.progress.batch):
            sums, counts = 0 * sums, 0 * counts
        sums, counts = sums.double(), counts.double()
        told = sums.new_tensor([stop.is_set(), seconds if self.world.is_main else 0.0])
        total = self.world.total(torch.cat([sums.detach(), counts, told]))
        self.stopped, self.progress.seconds = bool(total[6]), total[7].item()
        # The gradients will be averaged over processes, not summed.
        value = self.world.size * mean_loss(sums, total[3:6].to(sums))
        return value, mean_loss(total[:3], total[3:6]).item(), int(total[3:6].max())

    def end_epoch(self) -> None:
        """Goes on to the next epoch."""
        self.progress.epoch += 1
        self.progress.batch = 0

    def evaluate(self, val: Molecules) -> Evaluation:
        """Evaluates the averaged model."""
        config = self.config
        return evaluate(
            *(self.averaged, val, config.label, config.eval_batch_size),
            forces=config.with_forces,
            stress=config.with_stress,
            world=self.world,
            packed=False,
        )

    def validate(self, val: Molecules, sizes: Tensor) -> dict[str, float]:
        """Evaluates the averaged model, keeps it if it is the best.

        The best one has the smallest loss or, of energies alone, mean absolute error.

        Args:
            val: Validation set.
            sizes: Atoms of its molecules.

        Returns:
            The new row of the history.
        """
        progress = self.progress
        result = self.evaluate(val)
        # As rank 0 finds it, so that all decide the same, whatever their processors round to.
        progress.seconds, errors, score = self.world.from_main(
            lambda: (
                time.monotonic() - self._begun,
                self._columns(result),
                self._score(result, sizes),
            )
        )
        epoch: float = progress.epoch
        if progress.batch:
            epoch += progress.batch / len(self.order)
        if progress.enter(epoch, self.lr, errors, score):
            self.best, self._best_saved = copy.deepcopy(self.averaged.state_dict()), False
        return progress.history[-1]

    def _columns(self, result: Evaluation) -> dict[str, float]:
        """Validation errors for the history."""
        columns: dict[str, float] = {}
        for name, part in (("", result), ("force_", result.forces), ("stress_", result.stress)):
            if part is not None and part.known and (name or self.with_labels):
                columns |= {f"val_{name}mae": part.mae, f"val_{name}rmse": part.rmse}
        return columns

    def _score(self, result: Evaluation, sizes: Tensor) -> float:
        if result.forces is None and result.stress is None:
            return result.mae
        return mean_loss(*self.objective.of_evaluation(result, sizes)).item()

    @property
    def save_is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.progress.seconds - self._saved >= self.config.save_seconds

    def save(self) -> None:
        """Writes a checkpoint, and the best model if it is new."""
        if self.directory is None:
            return
        random = self.world.gather(random_state(self._device))
        self.world.from_main(lambda: self._write(random))
        self._saved, self.saved_step = self.progress.seconds, self.progress.step

    def rescue(self) -> str:
        """After the loss of another process: saves what can be saved, and says where it is."""
        progress = self.progress
        if progress.batch == 0 and progress.epoch > 0 and not progress.validated:
            # The epoch has yet to be validated, which a resumed run does at its end.
            progress.epoch, progress.batch = progress.epoch - 1, len(self.order)
        if self.directory is None:
            return "the model has its best weights so far"
        if self.world.is_main:
            self._write([random_state(self._device)])
            self.saved_step = progress.step
        step = f"{self.saved_step}{'' if self.world.is_main else ' or later'}"
        return (
            f"the last checkpoint, of step {step}, is in '{self.directory}': go on with "
            "fit(..., resume=True), in as many processes as you like"
        )

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def end(self) -> None:
        """Leaves the model with its best weights so far, each in memory of its own again."""
        self.weights.release()
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def _write(self, random: list[dict[str, Tensor]]) -> None:
        assert self.directory is not None
        if self.best is not None and not self._best_saved:
            # The model gives the file its settings, the state its weights.
            best = copy.deepcopy(self.averaged)
            best.load_state_dict(self.best)
            best.save(self.directory / BEST)
            self._best_saved = True
        save_checkpoint(
            *(self.directory, self.model, self.average, self.best, self.optimizer),
            *(self.progress, self.config, self.fingerprints, random),
        )
