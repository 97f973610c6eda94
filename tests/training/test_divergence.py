"""Losses that are no numbers, or explode: named, and nothing good is lost."""

import math
import statistics

import pytest
import torch
from training_runs import CONFIG, changed, new_model

from pyg_schnet.training import Labelled, evaluate, fit, fit_offsets
from pyg_schnet.training.checkpoint import LAST


def order_of(order_seed: int, epoch: int, size: int) -> list[int]:
    generator = torch.Generator().manual_seed(order_seed * 1_000_003 + epoch)
    return torch.randperm(size, generator=generator).tolist()


def test_a_broken_label_is_named(parts, tmp_path):
    """Of all labels one is absurd: the batch and the molecule are in the message."""
    train, val, _ = parts
    molecules = [data.clone() for data in train]
    molecules[17].y[0, 7] += 1e6
    model = new_model()
    fit_offsets(model, Labelled.read(train, 7))  # else the mean would take most of it up
    # After 100 steps: in the seventh epoch of 15, from its tenth batch on; or in the eighth.
    place = order_of(0, 7, 60).index(17)
    assert order_of(0, 6, 60).index(17) < 40
    config = changed(CONFIG, label=7, batch_size=4, explosion=30.0, epochs=20, lr=1e-7)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, molecules, val, config, tmp_path)
    message = str(caught.value)
    assert "times that of the first 100 steps (see 'explosion')" in message
    assert f"in batch {place // 4 + 1} of epoch 8 (step {7 * 15 + place // 4})" in message
    assert "of molecule 17 of the training set" in message
    assert f"of step 0, is in '{tmp_path}'" in message
    assert (tmp_path / LAST).exists()


def test_exploding_loss_stops_the_run(parts, tmp_path):
    model = new_model()
    with torch.no_grad():
        model.readout.lin2.bias.fill_(1e30)
    with pytest.raises(
        FloatingPointError, match=r"(loss|gradient) is (inf|nan) in batch 1 of epoch 1"
    ):
        fit(model, *parts[:2], changed(CONFIG, lr=1e30), tmp_path)


def test_a_gradient_that_is_no_number(parts, tmp_path):
    """The loss is finite, its gradient is not: the weights stay as they are."""
    model = new_model()
    model.readout.lin2.weight.register_hook(lambda grad: grad * math.nan)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(FloatingPointError, match="the norm of the gradient is nan in batch 1"):
        fit(model, *parts[:2], CONFIG, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_best_model_survives(parts, tmp_path):
    """A learning rate beyond reason after some good epochs."""
    train, val, _ = parts
    model = new_model()
    fit(model, train, val, changed(CONFIG, epochs=3), tmp_path)
    good = evaluate(model, val, "U0").mae
    # The exponential schedule may not rise; so the weights explode by hand.
    broken = new_model(seed=9)
    calls = []

    def explode(module, args, output):
        calls.append(1)
        return output * 1e30 if module.training and len(calls) > 2 else output

    broken.readout.lin1.register_forward_hook(explode)
    with pytest.raises(FloatingPointError, match="of epoch 4"):
        fit(broken, train, val, changed(CONFIG, epochs=9), tmp_path, resume=True)
    broken.readout.lin1._forward_hooks.clear()
    assert evaluate(broken, val, "U0").mae == good


def test_the_first_losses_are_ordered_once(parts, monkeypatch):
    """And not in each of the steps after them."""
    calls, median = [], statistics.median
    monkeypatch.setattr(statistics, "median", lambda losses: calls.append(1) or median(losses))
    fit(new_model(), *parts[:2], changed(CONFIG, batch_size=4, epochs=7, eval_epochs=7))
    assert calls == [1]
