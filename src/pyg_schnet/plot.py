r"""Pictures of a training run. Every function returns a matplotlib figure to show or to save."""

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .durations import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .nn import SchNet
    from .training import Evaluation

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
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not history:
        raise ValueError("'history' has no rows to draw: train until the first validation")
    targets = [target for target in _TARGETS if f"{target[0]}_mae" in history[0]]
    figure = _figure(6.0, 2.0 + 1.8 * len(targets))
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
        axes.set_ylabel(f"{name}error" + (f"\n[{units}{per}]" if units else ""))
        _logarithmic(axes, mae + rmse)
        axes.legend(frameon=False, fontsize=8)

    loss = [row["train_loss"] for row in history]
    panels[-1].plot(steps, loss, color="0.3", marker=marker, label="training loss")
    panels[-1].set(xlabel="step", ylabel="training loss")
    _logarithmic(panels[-1], loss)
    if max(steps) >= 10 * min(steps) > 0:  # below, linear ticks are easier to read
        panels[-1].set_xscale("log")
        subs = (1, 2, 5) if max(steps) < 100 * min(steps) else (1,)
        panels[-1].xaxis.set_major_locator(LogLocator(subs=subs))
        panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        panels[-1].xaxis.set_minor_formatter(NullFormatter())
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
    units = _in(evaluation.units)
    figure = _figure(9.0, 4.0)
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


def _mark_lowest(axes: "Axes", steps: list[float], errors: list[float]) -> None:
    known = [i for i, error in enumerate(errors) if math.isfinite(error)]
    if known:
        lowest = min(known, key=errors.__getitem__)
        (point,) = axes.plot(steps[lowest], errors[lowest], "o", color="k", markersize=4, zorder=3)
        point.set_label(f"lowest, {errors[lowest]:.4g}")


def _logarithmic(axes: "Axes", values: list[float]) -> None:
    if any(value > 0 for value in values):  # matplotlib cannot do it otherwise
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def _figure(width: float, height: float) -> "Figure":
    # Without pyplot there is no global state and no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _in(units: str | None) -> str:
    return f" [{units}]" if units else ""


def filters(model: "SchNet", reach: float = 5.0, *, curves: int = 8) -> "Figure":
    r"""The filters of each interaction block, as in Figure 3 of the paper.

    Above, cuts through all filters: the tile of filter f shows :math:`W_f(\sqrt{x^2 + y^2})` with
    an atom in its middle, negative values blue, positive red. Below, some of them over the
    distance. What is beyond the range of a filter stays white.

    Args:
        model: Network with filters of distances.
        reach: Largest coordinate and distance, in angstrom.
        curves: Filters to draw over the distance, evenly chosen.

    Raises:
        ValueError: If there are none to draw.
    """
    from matplotlib.figure import Figure

    made = [getattr(block.conv, "filter", None) for block in model.interactions]
    if not made or None in made or not 0.0 < reach < float("inf") or curves < 1:
        raise ValueError(
            "expected a network whose blocks all have filters, a positive 'reach' and at least one "
            f"of the 'curves' (got {model}, reach={reach:g}, curves={curves})"
        )
    figure = Figure(figsize=(3.6 * len(made), 5.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, len(made), squeeze=False, height_ratios=[3, 2])
    line = torch.linspace(-reach, reach, _PIXELS)
    radius, distance = torch.hypot(line[:, None], line).flatten(), torch.linspace(0.0, reach, 401)
    for k, (filter, tiles, lines) in enumerate(zip(made, *panels)):
        image = _tiled(_values(filter, radius))
        limit = float(image.abs().nan_to_num().max())
        shown = tiles.imshow(
            image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none"
        )
        figure.colorbar(shown, ax=tiles, shrink=0.7)
        tiles.set_axis_off()
        tiles.set_title(f"block {k + 1}, x and y to ±{reach:g} A", fontsize=9)
        values = _values(filter, distance)  # [401, F]
        count = min(curves, values.size(1))
        for f in torch.linspace(0, values.size(1) - 1, count).round().int().tolist():
            lines.plot(distance.numpy(), values[:, f].numpy(), lw=1, label=f"{f}")
        lines.axhline(0.0, color="0.6", lw=0.5)
        lines.set_xlabel("distance, A")
    panels[1, 0].set_ylabel("filter")
    return figure


# Width of a tile, odd so that one pixel is the middle.
_PIXELS = 61


def _values(filter: "torch.nn.Module", distance: Tensor) -> Tensor:
    """A filter at some distances, ``[E, F]``, NaN beyond its range and where it is not finite."""
    filter = copy.deepcopy(filter).eval().cpu()
    weight = next(filter.parameters(), distance)
    inside = distance <= getattr(filter, "d_max", float("inf"))
    with torch.no_grad():
        some = filter(distance[inside].to(weight.dtype)).float()
    values = distance.new_full((len(distance), some.size(1)), float("nan"))
    values[inside] = some
    return torch.where(values.isfinite(), values, float("nan"))


def _tiled(values: Tensor) -> Tensor:
    """Cuts ``[P * P, F]`` side by side in a square, with white between them."""
    side = math.ceil(values.size(1) ** 0.5)
    tiles = values.new_full((side * side, _PIXELS + 1, _PIXELS + 1), float("nan"))
    tiles[: values.size(1), :-1, :-1] = values.T.reshape(-1, _PIXELS, _PIXELS)
    rows = tiles.reshape(side, side, _PIXELS + 1, _PIXELS + 1).transpose(1, 2)
    return rows.reshape(side * (_PIXELS + 1), -1)
