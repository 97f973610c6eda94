r"""A run whose steps never wait for the device: packed, recorded once, repeated.

A step of a small network takes a GPU less time than it takes the host to ask for it, kernel by
kernel, and each number that the host looks at stops both. So the whole step (batch, loss, gradient,
clipping, optimiser, moving average) is a function of tensors that stay where they are, a CUDA graph
on a GPU. What the host wants to know of the steps is written down on the device, and read now and
then.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from threading import Event
from typing import Any

import torch
from torch_geometric.data import Batch

from ..data.packed import Capacity, PackedMolecules, UnpackableError
from ..ops import Knots
from ..ops.filter_table import Samples
from .capture import Captured
from .divergence import FIRST, check_gradient, check_loss
from .evaluation import (
    Evaluation,
    evaluation_of,
    packed_predictor,
    warn_of_unknown_species,
)
from .labels import Molecules
from .loss import mean_loss
from .packed_evaluation import PackedPredictor
from .run import NORM_MEMORY, Run

# Steps that are written down before the host has to read, and seconds after which it does.
_ROWS = 256
_SECONDS = 0.1


class DeviceRun(Run):
    """A run on packed molecules: same numbers but for rounding, same checkpoints.

    A step whose loss or gradient is no number, or whose loss explodes, changes nothing, nor does
    any after it: the host finds out when it reads, and goes back to that step to complain.

    Args:
        *args: As of :class:`Run`.
        dataset: Training set, to name molecules by.
        packed: The same on the device of the model.
        knots: Knots of all filters.
    """

    def __init__(self, *args: Any, dataset: Molecules, packed: PackedMolecules, knots: Knots):
        super().__init__(*args)
        self._dataset, self._packed, self._knots = dataset, packed, knots
        size = min(self.config.batch_size, len(packed))
        self._capacities = packed.capacities(size)
        device = self.model.device
        self._steps = {
            capacity: Captured(partial(self._train_on, capacity), device)
            for capacity in self._capacities
        }
        # What the device is told: the molecules of a step, the learning rate, a limit to the loss.
        self._numbers = torch.full((size,), len(packed), device=device)
        self._rate = torch.zeros((), dtype=torch.float32, device=device)
        self._limit = torch.full((), math.inf, dtype=torch.float64, device=device)
        # What it keeps: the usual norm, whether a step has failed, and the record.
        self._usual = torch.zeros((), dtype=torch.float64, device=device)
        self._failed = torch.zeros((), dtype=torch.float32, device=device)
        self._record = torch.zeros(_ROWS, 5, dtype=torch.float64, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._unread, self._read = 0, -math.inf
        self._order = self._numbers
        # What filters keep of their knots: a CUDA graph knows where it is, but does not keep it.
        self._samples: dict[int, Samples] = {}
        self._validation: tuple[PackedPredictor, PackedMolecules] | None = None
        self._validates_packed = True

    def begin(self, resume: bool) -> None:
        """As of :class:`Run`."""
        super().begin(resume)
        for group in self.optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        # The optimiser skips what GradScaler finds infinite. It would warn of the steps before the
        # recording, too, which it thinks a mistake.
        self.optimizer.found_inf = self._failed  # type: ignore[attr-defined] # as it sets it
        self.optimizer._warned_capturable_if_run_uncaptured = True
        self._usual.fill_(self.progress.usual_norm)
        self._set_limit()

    def batches(self) -> Iterator[Any]:
        """Numbers of the molecules of each batch that is left of the epoch."""
        progress = self.progress
        order = self.order.batches(progress.epoch)
        self._order = torch.cat(order).to(self._numbers.device)
        return islice(order, progress.batch, None)

    def advance(self, batch: Any, stop: Event) -> None:
        """Trains on the molecules of these numbers; reports now and then."""
        progress, size = self.progress, self._numbers.numel()
        self._rate.fill_(self.lr)
        self.stopped = stop.is_set()
        progress.seconds = time.monotonic() - self._begun
        count, first = batch.numel(), progress.batch * size
        self._numbers[:count].copy_(self._order[first : first + count])
        if count < size:
            self._numbers[count:].fill_(len(self._packed))
        for block in self.model.interactions:
            filter: Any = block.conv.filter  # type: ignore[union-attr] # untyped in lists
            samples = filter.samples(self._knots)
            self._samples[id(samples)] = samples
        self._step_for(self._packed.needed(batch.numpy()))
        self.weights.changed()
        self.average.changed()
        progress.step += 1
        progress.batch += 1
        self._unread += 1
        due = time.monotonic() >= self._read + _SECONDS
        if due or self._unread == _ROWS or progress.step == FIRST:
            self.settle()

    def _step_for(self, needed: Capacity) -> None:
        """The step of the first capacity that is enough; else one of a size of its own."""
        for capacity, step in self._steps.items():
            if needed.atoms <= capacity.atoms and needed.edges <= capacity.edges:
                step()
                return
        self._train_on(needed)

    def _train_on(self, capacity: Capacity) -> None:
        """A step, all of it on the device."""
        config, weights = self.config, self.weights
        # 1. Loss and gradient. Not by backward(): the nodes that add gradients up remember the
        # stream they were made on, which a CUDA graph must not touch.
        batch = self._packed.batch(self._numbers, capacity, self._knots)
        sums, counts = self.objective.of_packed(batch)
        loss = mean_loss(sums, counts)
        found = torch.autograd.grad(loss, weights.parameters, materialize_grads=True)
        with torch.no_grad():
            weights.set_grad(found)
            # 2. Is it any good?
            loss, norm = loss.detach(), weights.gradient_norm().double()
            good = loss.isfinite() & norm.isfinite() & (loss <= self._limit) & (self._failed == 0)
            # 3. Clipping.
            longest = torch.full_like(norm, config.clip_norm or math.inf)
            if config.clip_ratio > 0:
                usual = torch.where(self._usual > 0, self._usual, norm)
                longest = torch.minimum(longest, config.clip_ratio * usual)
                usual = usual + NORM_MEMORY * (torch.minimum(norm, longest) - usual)
                self._usual.copy_(torch.where(good, usual, self._usual))
            if config.clip_norm > 0 or config.clip_ratio > 0:
                factor = torch.where(norm > longest, longest / (norm + 1e-6), 1.0)
                for flat in weights.flat:
                    flat.grad.mul_(factor)  # type: ignore[union-attr] # it always has one
            # 4. Optimiser and average, which do nothing where it has failed.
            self._failed.copy_(~good)
            self.optimizer.step()
            self.average.update_where(good)
            # 5. For the host.
            row = torch.stack([loss, counts.max().double(), norm, self._usual, (~good).double()])
            self._record.index_copy_(0, self._row, row.unsqueeze(0))
            self._row.add_(1)

    def settle(self) -> None:
        """Reads what the device has written down, and reports it.

        Raises:
            FloatingPointError: If a step has failed, as :meth:`Run.step` does.
        """
        progress, unread = self.progress, self._unread
        if unread > 0:
            rows = self._record[:unread].tolist()  # waits for all steps
            self._row.zero_()
            self._unread = 0
            progress.step, progress.batch = progress.step - unread, progress.batch - unread
            for loss, count, norm, usual, failed in rows:
                if failed:
                    self._refuse(loss, norm)
                progress.usual_norm = usual
                self._count(loss, int(count))
                self.report(loss, int(count))
            self._set_limit()
        self._read = time.monotonic()

    def _refuse(self, loss: float, norm: float) -> None:
        """Complains of the present batch."""
        numbers = self.order.batches(self.progress.epoch)[self.progress.batch]
        batch = Batch.from_data_list([self._dataset[int(number)] for number in numbers])
        check_loss(self, batch, loss)
        check_gradient(self, batch, norm)
        raise AssertionError("a step has failed for no reason: this is a bug, please report it")

    def _set_limit(self) -> None:
        progress, limit = self.progress, self.config.explosion
        if limit > 0 and progress.step >= FIRST and progress.first_median > 0:
            self._limit.fill_(limit * progress.first_median)

    def end_epoch(self) -> None:
        """As of :class:`Run`."""
        self.settle()
        super().end_epoch()

    def evaluate(self, val: Molecules) -> Evaluation:
        """As of :class:`Run`, on packed molecules where these can be."""
        self.settle()
        if self._validation is None and self._validates_packed:
            config, model = self.config, self.averaged
            try:
                predict, molecules, z = packed_predictor(
                    model, val, config.label, config.eval_batch_size, config.with_forces
                )
                self._validation = predict, molecules
                warn_of_unknown_species(model, z)
            except (UnpackableError, torch.OutOfMemoryError):
                self._validates_packed = False
        if self._validation is None:
            return super().evaluate(val)
        return evaluation_of(*self._validation, self.averaged)

    def save(self) -> None:
        """As of :class:`Run`."""
        self.settle()
        super().save()

    def end(self) -> None:
        """As of :class:`Run`."""
        super().end()
        self._steps.clear()  # they know the run: it would keep the memory of the device
        self._validation = None
