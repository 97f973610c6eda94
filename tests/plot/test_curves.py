import io
import math

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.plot import filters, learning_curve, parity
from pyg_schnet.training import Evaluation

ENERGIES = {"val_mae": [1.0, 0.5, 0.75], "val_rmse": [1.5, 0.8, 0.9]}
FORCES = {"val_force_mae": [3.0, 2.0, 1.0], "val_force_rmse": [4.0, 3.0, 2.0]}
STRESS = {"val_stress_mae": [0.3, 0.2, 0.1], "val_stress_rmse": [0.4, 0.3, 0.2]}


def history(**errors: list[float]) -> list[dict[str, float]]:
    steps = {"epoch": [1, 2, 2.5], "step": [100, 200, 1_250], "seconds": [50.0, 100.0, 125.0]}
    columns = {**steps, "train_loss": [4.0, 1.0, 0.25], **errors}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data())) for line in axes.get_lines()}


def test_learning_curve():
    errors, loss = learning_curve(history(**ENERGIES), "eV", {"mean": 3.0}).axes
    drawn = lines(errors)
    assert drawn["validation MAE"] == [(100, 1.0), (200, 0.5), (1250, 0.75)]
    assert drawn["validation RMSE"] == [(100, 1.5), (200, 0.8), (1250, 0.9)]
    assert drawn["lowest, 0.5"] == [(200, 0.5)]
    assert [y for _, y in drawn["mean, MAE"]] == [3.0, 3.0]
    assert errors.get_ylabel() == "error\n[eV]"
    assert lines(loss) == {"training loss": [(100, 4.0), (200, 1.0), (1250, 0.25)]}
    assert errors.get_title(loc="right") == "epoch 2.5, step 1,250, 2 min 5 s"
    for axes in (errors, loss):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (errors, _) = learning_curve(history(**ENERGIES)[:2]).axes
    assert (errors.get_xscale(), errors.get_yscale()) == ("linear", "log")


def test_learning_curve_of_derivatives():
    figure = learning_curve(history(**ENERGIES, **FORCES, **STRESS), "eV", {"mean": 3.0})
    energy, force, stress, loss = figure.axes
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels[:2] == ["energy error\n[eV]", "force error\n[eV/Å]"]
    assert labels[2:] == ["stress error\n[eV/Å^3]", "training loss"]
    assert lines(force)["validation MAE"] == [(100, 3.0), (200, 2.0), (1250, 1.0)]
    assert lines(stress)["validation RMSE"] == [(100, 0.4), (200, 0.3), (1250, 0.2)]
    assert "mean, MAE" in lines(energy)
    assert not any("mean" in name for axes in (force, stress, loss) for name in lines(axes))


@pytest.mark.parametrize("error", [0.0, math.nan, math.inf])
def test_learning_curve_of_odd_numbers(error):
    """Whatever a run has in its history, the picture is drawn, without warnings."""
    rows = history(val_mae=[error] * 3, val_rmse=[error] * 3)
    for some in (rows, [rows[0] | {"step": 0, "train_loss": error}]):
        figure = learning_curve(some)
        assert figure.axes[0].get_ylabel() == "error"
        figure.draw_without_rendering()


def test_learning_curve_of_nothing():
    with pytest.raises(ValueError, match="'history' has no rows to draw"):
        learning_curve([])


@pytest.mark.parametrize("baseline", [None, torch.tensor([1.0, 1.0, 1.0])])
def test_parity_leaves_out_missing_labels(baseline):
    result = Evaluation.of(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, math.nan, 2.0]), "eV")
    left, right = parity(result, "U0", baseline).axes
    shift = 0.0 if baseline is None else 1.0
    points = left.collections[0].get_offsets().tolist()
    assert points == [[1.5 - shift, 1.0 - shift], [2.0 - shift, 3.0 - shift]]
    assert sum(bar.get_height() for bar in right.patches) == 2
    assert right.get_title() == "MAE 0.75, RMSE 0.7906, mean 0.25 [eV]"
    left_edges = [bar.get_x() for bar in right.patches]
    assert min(left_edges) == pytest.approx(-0.5)  # from the least to the greatest error
    assert max(left_edges) + right.patches[-1].get_width() == pytest.approx(1.0)


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
        assert [y for _, y in drawn[str(f)]] == pytest.approx(expected, abs=1e-6)
    figure.savefig(io.BytesIO())


def test_filters_that_cannot_be_drawn():
    model = SchNet(8, 5, 1)
    for wrong in ({"reach": 0.0}, {"curves": 0}):
        with pytest.raises(ValueError, match="expected a network whose blocks all have filters"):
            filters(model, **wrong)
    model.interactions[0].conv = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"got SchNet\(.*filter=Identity"):
        filters(model)
