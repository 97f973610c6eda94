import io
import math

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.plot import filters, learning_curve, parity
from pyg_schnet.training import Evaluation

HISTORY = [
    {"epoch": 1, "train_loss": 4.0, "val_mae": 1.0, "val_rmse": 1.5},
    {"epoch": 2, "train_loss": 1.0, "val_mae": 0.5, "val_rmse": 0.8},
]


def lines(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_learning_curve():
    (axes,) = learning_curve(HISTORY, "eV", {"mean": 3.0}).axes
    drawn = lines(axes)
    assert drawn["training RMSE"] == [2.0, 1.0]  # the root of the loss
    assert drawn["validation MAE"] == [1.0, 0.5]
    assert drawn["mean, MAE"] == [3.0, 3.0]
    assert axes.get_ylabel() == "error [eV]"


@pytest.mark.parametrize("baseline", [None, torch.tensor([1.0, 1.0, 1.0])])
def test_parity_leaves_out_missing_labels(baseline):
    result = Evaluation.of(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, math.nan, 2.0]), "eV")
    left, right = parity(result, "U0", baseline).axes
    shift = 0.0 if baseline is None else 1.0
    points = left.collections[0].get_offsets().tolist()
    assert points == [[1.5 - shift, 1.0 - shift], [2.0 - shift, 3.0 - shift]]
    assert sum(bar.get_height() for bar in right.patches) == 2
    assert "MAE 0.75" in right.get_title()


def test_filters():
    torch.manual_seed(0)
    model = SchNet(8, 5, 2, num_gaussians=10, cutoff=4.0)
    figure = filters(model, reach=3.0, curves=3)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    (image,) = panels[1].get_images()
    pixels = torch.as_tensor(image.get_array().filled(math.nan))
    assert pixels.shape == (3 * 62, 3 * 62)  # five tiles in a square of nine
    filter = model.interactions[1].conv.filter
    tile = pixels[62:, 62:][:61, :61]  # the fifth, in the middle
    for row, column in ((30, 30), (10, 40), (0, 0)):
        x, y = (3.0 * (place - 30) / 30 for place in (row, column))
        d = torch.tensor([math.hypot(x, y)])
        inside = math.hypot(x, y) < 4.0
        value = filter(d)[0, 4].item() if inside else math.nan
        assert tile[row, column].item() == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert pixels[-1].isnan().all()
    drawn = lines(panels[2])
    d = torch.linspace(0, 3, 401)
    for f in (0, 2, 4):
        expected = model.interactions[0].conv.filter(d)[:, f].tolist()
        assert drawn[str(f)] == pytest.approx(expected, abs=1e-6)
    figure.savefig(io.BytesIO())


def test_filters_that_cannot_be_drawn():
    model = SchNet(8, 5, 1)
    for wrong in ({"reach": 0.0}, {"curves": 0}):
        with pytest.raises(ValueError, match="expected a network whose blocks all have filters"):
            filters(model, **wrong)
    model.interactions[0].conv = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"got SchNet\(.*filter=Identity"):
        filters(model)
