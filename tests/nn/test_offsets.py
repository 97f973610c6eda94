import copy
import math

import pytest
import torch

from pyg_schnet.nn import Offsets


def test_formula_in_float64():
    offsets = Offsets(mean=-2.0, std=3.0, atomref=torch.tensor([0.0, -13.6, 0.0, 5.0]))
    z = torch.tensor([1, 3, 8])
    out = offsets(torch.tensor([[1.0], [2.0], [3.0]]), z)
    assert out.dtype == torch.float64
    expected = [3.0 - 2 - 13.6, 6.0 - 2 + 5, 9.0 - 2]
    assert out.tolist() == pytest.approx(expected, rel=1e-7)  # the table was given in float32


@pytest.mark.parametrize("cast", ["float", "half", "bfloat16", "double"])
def test_survive_casts(cast):
    value = -40.478931234567891
    offsets = Offsets(mean=value, std=1 / 3, atomref=torch.full((10,), value).double())
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), offsets)
    getattr(model, cast)()
    model.to(torch.float32)
    for buffer in offsets.buffers():
        assert buffer.dtype == torch.float64
    assert offsets.mean.item() == value
    assert offsets.std.item() == 1 / 3


def test_survive_copies_and_meta_device():
    offsets = Offsets(mean=1.5)
    assert copy.deepcopy(offsets).float().mean.item() == 1.5
    assert offsets.to("meta").atomref.is_meta
    assert offsets.to_empty(device="cpu").atomref.dtype == torch.float64


def test_are_buffers_not_parameters():
    offsets = Offsets(mean=1.5, std=2.0)
    assert set(offsets.state_dict()) == {"mean", "std", "atomref"}
    assert not list(offsets.parameters())
    assert not offsets.is_neutral
    offsets.set()
    assert offsets.is_neutral


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(std=0.0), "'std' must be positive"),
        (dict(mean=math.nan), "finite numbers"),
        (dict(atomref=torch.zeros(102)), "at most 101"),
        (dict(atomref=torch.tensor([math.inf])), "finite values"),
        (dict(atomref=torch.zeros(10, 2)), r"shape \[Z\] or \[Z, 1\] \(got \[10, 2\]\)"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        Offsets(**arguments)
