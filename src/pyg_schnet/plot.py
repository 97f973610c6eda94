r"""Pictures of a training run. Every function returns a matplotlib figure to show or to save."""

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .training.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .nn import SchNet


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
