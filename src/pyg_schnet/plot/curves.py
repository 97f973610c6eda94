r"""Learning curves, and predictions against labels."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..durations import duration
from .figures import in_units, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from ..training import Evaluation

# Prefix of the columns of the history, name for people, and what the unit is per.
_TARGETS = (("val", "", ""), ("val_force", "force ", "/Ang"), ("val_stress", "stress ", "/Ang^3"))
_FEW = 50  # rows up to which each is marked


def learning_curve(
    history: list[dict[str, float]],
    units: str | None = None,
    baselines: dict[str, float] | None = None,
) -> "Figure":
    """Validation errors of every target, and the training loss, over steps; on log scales.

    Args:
        history: Rows from :func:`pyg_schnet.training.fit`.
        units: Unit of the label.
        baselines: Mean absolute errors of the label to draw as horizontal lines, by name.

    Raises:
        ValueError: If there are no rows.
    """
    if not history:
        raise ValueError("'history' has no rows to draw: train until the first validation")
    targets = [target for target in _TARGETS if f"{target[0]}_mae" in history[0]]
    figure = new_figure(6.0, 2.0 + 1.8 * len(targets))
    panels = figure.subplots(len(targets) + 1, sharex=True, height_ratios=[3] * len(targets) + [2])
    steps = [row["step"] for row in history]
    marker = "." if len(history) <= _FEW else ""

    for i, (axes, (prefix, name, per)) in enumerate(zip(panels, targets)):
        if len(targets) > 1 and not name:
            name = "energy "  # nothing else has derivatives
        mae, rmse = ([row[f"{prefix}_{error}"] for row in history] for error in ("mae", "rmse"))
        axes.plot(steps, rmse, color=f"C{i}", lw=1, alpha=0.5, label="validation RMSE")
        axes.plot(steps, mae, color=f"C{i}", marker=marker, label="validation MAE")
        _mark_lowest(axes, steps, mae)
        if prefix == "val":
            for k, (baseline, value) in enumerate((baselines or {}).items()):
                style = ("--", ":", "-.")[k % 3]
                axes.axhline(value, color="0.4", lw=1, ls=style, label=f"{baseline}, MAE")
        axes.set_ylabel(f"{name}error" + in_units(units and units + per, "\n"))
        _logarithmic(axes, mae + rmse)
        axes.legend(frameon=False, fontsize=8)

    loss = [row["train_loss"] for row in history]
    panels[-1].plot(steps, loss, color="0.3", marker=marker, label="training loss")
    panels[-1].set(xlabel="step", ylabel="training loss")
    _logarithmic(panels[-1], loss)
    if max(steps) >= 10 * min(steps) > 0:  # below, linear ticks are easier to read
        panels[-1].set_xscale("log")
        _label_decimally(panels[-1].xaxis, steps, "{x:,g}")
    last = history[-1]
    panels[0].set_title(
        f"epoch {round(last['epoch'], 2):g}, step {last['step']:,}, {duration(last['seconds'])}",
        loc="right",
        fontsize=9,
    )
    figure.align_ylabels()
    return figure


def parity(
    evaluation: "Evaluation", name: str = "target", baseline: Tensor | None = None
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
    units = in_units(evaluation.units)
    figure = new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    low, high = float(reference.min()), float(reference.max())
    left.plot([low, high], [low, high], color="0.6", lw=1)
    left.scatter(reference, predicted, s=8, alpha=0.6, linewidths=0)
    left.locator_params(nbins=6)
    left.set(xlabel=f"{name}, reference{units}", ylabel=f"{name}, predicted{units}")
    errors = predicted - reference
    right.hist(errors.numpy(), bins=50)
    right.axvline(0.0, color="0.6", lw=1)
    right.set(xlabel=f"error, predicted - reference{units}", ylabel="number")
    summary = f"MAE {evaluation.mae:.4g}, RMSE {evaluation.rmse:.4g}, mean {errors.mean():.3g}"
    right.set_title(summary + units, fontsize=10)
    return figure


def _mark_lowest(axes: "Axes", steps: list[float], errors: list[float]) -> None:
    known = [i for i, error in enumerate(errors) if math.isfinite(error)]
    if known:
        lowest = min(known, key=errors.__getitem__)
        (point,) = axes.plot(steps[lowest], errors[lowest], "o", color="k", markersize=4, zorder=3)
        point.set_label(f"lowest, {errors[lowest]:.4g}")


def _logarithmic(axes: "Axes", values: list[float]) -> None:
    if any(value > 0 for value in values):  # matplotlib cannot do it otherwise
        axes.set_yscale("log")
        known = [value for value in values if 0 < value < math.inf]
        if known:
            _label_decimally(axes.yaxis, known, "{x:g}")
    axes.grid(alpha=0.3)


def _label_decimally(axis: "Axis", values: list[float], style: str) -> None:
    """Plain numbers along an axis, more of them over few decades."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    subs = (1, 2, 5) if max(values) < 100 * min(values) else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(StrMethodFormatter(style))
    axis.set_minor_formatter(NullFormatter())
