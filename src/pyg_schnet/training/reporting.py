r"""What people see of a run: table, progress bar, ``history.csv``, learning curve, TensorBoard."""

import csv
import io
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tqdm import tqdm

from ..durations import duration
from ..plot import learning_curve
from ..storage import write_atomically
from .checkpoint import Progress
from .config import TrainConfig
from .pace import Pace
from .validation_table import ValidationTable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]

_REDRAW = 0.1  # s between states of the bar
_PICTURE = 30.0  # s between pictures, at least
_SHARE = 0.01  # of the time at most goes into writing the same file again
_MEMORY = 0.99  # weight of earlier losses, per step, in the one that the bar shows


class Reporter:
    """Reports on a run; a context manager.

    Every validation is a line of a table on standard error; on a terminal there is a bar of the
    whole run below it, with the loss of about the last 100 steps and the time left. The directory
    gets all rows in ``history.csv``, a picture of them in ``learning_curve.png`` and, where
    TensorBoard is installed, scalars in ``tensorboard/``. The first two are replaced as a whole,
    so rarely that it does not cost, and at the end.

    What cannot be written is a warning: reports never end a run.

    Args:
        directory: Directory of the run; no files if ``None``.
        config: Settings of the run.
        progress: Where the run stands as this process begins.
        steps_per_epoch: Steps of an epoch.
        units: Unit of the label, if known.
        log: Called with each row when everything else is done with it; what it raises is raised.
        main: Whether to report at all: of several processes one does.
        clock: Tells the time in seconds.

    Raises:
        TypeError: If ``log`` cannot be called.
    """

    def __init__(
        self,
        directory: Path | None,
        config: TrainConfig,
        progress: Progress,
        steps_per_epoch: int,
        units: str | None = None,
        log: Callable[[Row], object] | None = None,
        *,
        main: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        if log is not None and not callable(log):
            raise TypeError(f"'log' must be a function of a row (got {type(log).__name__})")
        self.directory = directory if main else None
        self.units, self.log, self.main, self._clock = units, log, main, clock
        self._rows = list(progress.history)
        self._pace = Pace(config, steps_per_epoch, progress.step, progress.seconds, clock)
        self._table = ValidationTable(config.label, units)
        self._files: list[_Rewritten] = []
        if self.directory is not None:
            resumed = bool(self._rows)
            self._files = [
                _Rewritten(self.directory / "history.csv", _Csv(self._rows), clock, resumed),
                _Rewritten(
                    self.directory / "learning_curve.png", self._draw, clock, resumed, _PICTURE
                ),
            ]
        self._purge = int(self._rows[-1]["step"]) + 1 if self._rows else 0
        self._scalars: SummaryWriter | None = None
        self._tensorboard = self.directory is not None
        self._warned: set[str] = set()

        self._terminal = main and sys.stderr is not None and sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._redraw = -math.inf
        self._loss = self._molecules = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def step(self, loss: float, molecules: int) -> None:
        """Reports a step.

        Args:
            loss: Its loss.
            molecules: Molecules that the loss is of.
        """
        self._pace.advance()
        if not self._terminal:
            return
        self._loss = _MEMORY * self._loss + loss * molecules
        self._molecules = _MEMORY * self._molecules + molecules
        now = self._clock()
        if now >= self._redraw:
            self._redraw = now + _REDRAW
            self._show()

    def row(self, row: Row, best: bool = False) -> None:
        """Reports a validation.

        Args:
            row: The new row of the history.
            best: Whether it is the best so far.
        """
        if not self.main:
            return
        self._rows.append(row)
        if sys.stderr is not None:
            line = self._table.line(row, self._pace.left(), best)
            self._attempt("the table", lambda: tqdm.write(line, file=sys.stderr))
        for file in self._files:
            file.complete = False
            if file.due:
                self._attempt(f"'{file.path}'", file.write)
        if self._tensorboard and not self._attempt("TensorBoard's log", self._add_scalars):
            self._tensorboard = False
        if self.log is not None:
            self.log(dict(row))

    def close(self) -> None:
        """Completes the files and removes the bar; may be called again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        for file in self._files:
            if not file.complete:
                self._attempt(f"'{file.path}'", file.write)
        if self._scalars is not None:
            self._attempt("TensorBoard's log", self._scalars.close)
            self._scalars = None

    def _show(self) -> None:
        if self._bar is None:
            layout = "{desc}|{bar}| {percentage:.0f} %{postfix}"
            self._bar = tqdm(
                total=1.0, bar_format=layout, leave=False, dynamic_ncols=True, file=sys.stderr
            )
        epoch = self._pace.step / self._pace.steps_per_epoch
        state = f"loss {self._loss / self._molecules if self._molecules else math.nan:.4g}"
        left = self._pace.left()
        if left is not None:
            state += f", {duration(left)} left"
        self._bar.n = self._pace.fraction()
        self._bar.set_description_str(f"epoch {epoch:.1f} ", refresh=False)
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.refresh()

    def _draw(self) -> bytes:
        content = io.BytesIO()
        learning_curve(self._rows, self.units).savefig(content, format="png")
        return content.getvalue()

    def _add_scalars(self) -> None:
        if self._scalars is None:
            assert self.directory is not None
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # not installed
                self._tensorboard = False
                return
            # What a killed process logged after its last checkpoint is of no run any more.
            self._scalars = SummaryWriter(
                self.directory / "tensorboard", purge_step=self._purge, flush_secs=int(_PICTURE)
            )
        row = self._rows[-1]
        for name, value in row.items():
            if name not in ("step", "seconds"):
                # train_loss and val_mae are in two groups: train/loss, val/mae.
                self._scalars.add_scalar(name.replace("_", "/", 1), value, row["step"])

    def _attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Whether it worked; a failure is a warning, once."""
        try:
            write()
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                warnings.warn(
                    f"{what} cannot be written ({type(error).__name__}: {error}); training goes on",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return False
        return True


class _Rewritten:
    """A file on all rows so far, replaced from time to time."""

    def __init__(
        self,
        path: Path,
        content: Callable[[], bytes],
        clock: Callable[[], float],
        resumed: bool,
        interval: float = 0.0,
    ):
        self.path, self.content, self._clock, self._interval = path, content, clock, interval
        self.complete = not resumed  # the file may have rows that the checkpoint has not
        self._next = clock() + interval

    @property
    def due(self) -> bool:
        return self._clock() >= self._next

    def write(self) -> None:
        started = self._clock()
        try:
            write_atomically(self.path, self.content())
            self.complete = True
        finally:
            now = self._clock()
            self._next = now + max(self._interval, (now - started) / _SHARE)


class _Csv:
    """The text of a table that grows: each row is formatted once."""

    def __init__(self, rows: list[Row]):
        self._rows, self._done, self._text = rows, 0, io.StringIO(newline="")

    def __call__(self) -> bytes:
        writer = csv.DictWriter(self._text, list(self._rows[0]), lineterminator="\n")
        if self._done == 0:
            writer.writeheader()
        for row in self._rows[self._done :]:
            writer.writerow(row)
            self._done += 1
        return self._text.getvalue().encode()
