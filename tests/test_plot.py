import math

import pytest
import torch

from pyg_schnet.plot import learning_curve, parity
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
