r"""The learned filters."""

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..nn import SchNet


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
    made = [getattr(block.conv, "filter", None) for block in model.interactions]
    if not made or None in made or not 0.0 < reach < float("inf") or curves < 1:
        raise ValueError(
            "expected a network whose blocks all have filters, a positive 'reach' and at least one "
            f"of the 'curves' (got {model}, reach={reach:g}, curves={curves})"
        )
    figure = new_figure(3.6 * len(made), 5.6)
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
        tiles.set_title(f"block {k + 1}, x and y to ±{reach:g} Å", fontsize=9)
        values = _values(filter, distance)  # [401, F]
        count = min(curves, values.size(1))
        for f in torch.linspace(0, values.size(1) - 1, count).round().int().tolist():
            lines.plot(distance.numpy(), values[:, f].numpy(), lw=1, label=f"{f}")
        lines.axhline(0.0, color="0.6", lw=0.5)
        lines.set_xlabel("distance [Å]")
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
