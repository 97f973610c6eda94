r"""Pictures of a training run. Every function returns a matplotlib figure to show or to save."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .training.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(
    history: list[dict[str, float]],
    units: str | None = None,
    baselines: dict[str, float] | None = None,
) -> "Figure":
    """Errors over epochs on a logarithmic scale.

    Args:
        history: Rows from :func:`pyg_schnet.training.fit`, on energies, or on forces too.
        units: Unit of the errors.
        baselines: Mean absolute errors to draw as horizontal lines, by name.
    """
    figure = _figure()
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    columns = {"val_mae": ("C0", "-", "validation MAE")}
    if "val_force_mae" in history[0]:
        columns["val_mae"] = ("C0", "-", f"validation MAE, energy{_in(units)}")
        per_length = _in(units and f"{units}/Ang")
        columns["val_force_mae"] = ("C1", "-", f"validation MAE, forces{per_length}")
    else:
        train_rmse = [row["train_loss"] ** 0.5 for row in history]
        axes.plot(epochs, train_rmse, color="0.6", label="training RMSE")
        columns["val_rmse"] = ("C0", "--", "validation RMSE")
    for column, (color, line, label) in columns.items():
        axes.plot(epochs, [row[column] for row in history], line, color=color, label=label)
    for i, (name, value) in enumerate((baselines or {}).items()):
        axes.axhline(value, color=f"C{i + 2}", ls=":", label=f"{name}, MAE")
    error = "error" if "val_force_mae" in history[0] else f"error{_in(units)}"
    axes.set(xlabel="epoch", ylabel=error, yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure


def parity(
    evaluation: Evaluation, name: str = "target", baseline: Tensor | None = None
) -> "Figure":
    """Predictions against labels, beside a histogram of the errors.

    Args:
        evaluation: Result of :func:`pyg_schnet.training.evaluate`.
        name: What was predicted.
        baseline: Subtracted from both, ``[M]``: without their atom references total energies
            are so large that every model looks perfect.
    """
    known = ~evaluation.reference.isnan()
    shift = torch.zeros_like(evaluation.reference) if baseline is None else baseline
    reference = (evaluation.reference - shift)[known]
    predicted = (evaluation.predicted - shift)[known]
    units = _in(evaluation.units)
    figure = _figure(width=9.0)
    left, right = figure.subplots(1, 2)
    low, high = float(reference.min()), float(reference.max())
    left.plot([low, high], [low, high], color="0.6", lw=1)
    left.scatter(reference, predicted, s=8, alpha=0.6, linewidths=0)
    left.locator_params(nbins=6)
    left.set(xlabel=f"{name}, reference{units}", ylabel=f"{name}, predicted{units}")
    right.hist((predicted - reference).numpy(), bins=50)
    right.set(xlabel=f"error{units}", ylabel="number")
    right.set_title(f"MAE {evaluation.mae:.4g}, RMSE {evaluation.rmse:.4g}{units}", fontsize=10)
    return figure


def _figure(width: float = 6.0) -> "Figure":
    # Without pyplot there is no global state and no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 4.0), dpi=150, layout="constrained")


def _in(units: str | None) -> str:
    return f" [{units}]" if units else ""
