r"""What to say when a loss is not a number, or explodes: which batch, which molecule."""

import math
from typing import TYPE_CHECKING

from torch_geometric.data import Batch

from .loss import mean_loss

if TYPE_CHECKING:
    from .run import Run


# Steps with whose losses later ones are compared.
FIRST = 100


def check_loss(run: "Run", batch: Batch, loss: float) -> None:
    """Refuses a loss that is not finite, or many times the median of those of the first steps.

    Raises:
        FloatingPointError: If it is.
    """
    progress, limit = run.progress, run.config.explosion
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} {_where(run, batch)}")
    if limit == 0 or progress.step < FIRST:
        return
    first = progress.first_median
    if loss > limit * first > 0:
        raise FloatingPointError(
            f"the loss is {loss:g}, {loss / first:g} times that of the first {FIRST} steps (see "
            f"'explosion'), {_where(run, batch)}"
        )


def check_gradient(run: "Run", batch: Batch, norm: float) -> None:
    """Refuses a gradient that is not finite.

    Raises:
        FloatingPointError: If it is not.
    """
    if not math.isfinite(norm):
        raise FloatingPointError(f"the norm of the gradient is {norm} {_where(run, batch)}")


def _where(run: "Run", batch: Batch) -> str:
    progress, kept = run.progress, ""
    if run.saved_step is not None:
        kept = f". The last good checkpoint, of step {run.saved_step}, is in '{run.directory}'"
    return (
        f"in batch {progress.batch + 1} of epoch {progress.epoch + 1} (step {progress.step}): "
        f"{_culprit(run, batch)}. Check its labels and positions, lower 'lr' (now {run.lr:g}), or "
        f"set 'clip_ratio'{kept}"
    )


def _culprit(run: "Run", batch: Batch) -> str:
    """The molecule of the batch with the largest loss, of all processes."""
    losses = []
    for data in batch.to_data_list():
        loss = mean_loss(*run.objective(Batch.from_data_list([data]))).item()
        losses.append(loss if math.isfinite(loss) else math.inf)
    worst = max(range(len(losses)), key=losses.__getitem__)
    share = run.order.share(run.order.batches(run.progress.epoch)[run.progress.batch])
    found = (losses[worst], int(share[worst]), batch[worst].num_nodes)
    loss, number, atoms = max(run.world.gather(found))
    return f"the largest loss is {loss:g}, of molecule {number} of the training set ({atoms} atoms)"
