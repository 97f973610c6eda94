r"""How far a run is, and how long it will take."""

import math
import time
from collections.abc import Callable

from .config import TrainConfig


class Pace:
    """Measures the pace of a run against its budgets; the first to be used up ends the run.

    The pace is that of this process, with everything between steps, but for its first step: that
    one compiles.

    Args:
        config: Settings with the budgets.
        steps_per_epoch: Steps of an epoch.
        step: Steps that the run had taken when this process began.
        seconds: Time that it had taken by then.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        config: TrainConfig,
        steps_per_epoch: int,
        step: int = 0,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self.step, self._clock = step, clock
        self._begun = clock() - seconds
        self._first: tuple[int, float] | None = None

    def advance(self) -> None:
        """Counts a step."""
        self.step += 1
        if self._first is None:
            self._first = self.step, self._clock()

    def fraction(self) -> float:
        """How much of the run is done, from 0 to 1."""
        seconds = self._clock() - self._begun
        return min(self.config.fraction(self.step, seconds, self.steps_per_epoch), 1.0)

    def left(self) -> float | None:
        """Seconds to the end of the run; ``None`` while nothing is known."""
        now, config = self._clock(), self.config
        left = config.time_limit - (now - self._begun)
        steps = min(config.epoch_limit * self.steps_per_epoch, config.max_steps or math.inf)
        if self._first is not None and self.step > self._first[0]:
            step, since = self._first
            left = min(left, (steps - self.step) * (now - since) / (self.step - step))
        return max(left, 0.0) if math.isfinite(left) else None
