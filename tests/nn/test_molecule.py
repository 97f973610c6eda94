"""One kernel for one small molecule, against automatic differentiation in float64."""

import copy

import pytest
import torch
from molecules import MODELS, random_molecule, small_model
from torch_geometric.data import Batch

from pyg_schnet import SchNet
from pyg_schnet.nn import molecule
from pyg_schnet.nn.inference import predict_by_autograd
from pyg_schnet.nn.layers import read_layers
from pyg_schnet.nn.system import System

KINDS = [kind for kind in MODELS if kind != "dipole"]


def by_kernel(model, data, with_forces=True):
    """What the kernel makes of a molecule; ``None`` if it declines."""
    with torch.no_grad():
        return molecule.predict(model, read_layers(model), data.z, data.pos, with_forces)


def by_autograd(model, data):
    exact = copy.deepcopy(model).double()
    exact.mode = "exact"
    return predict_by_autograd(exact, System(data.z, data.pos.double(), batch_size=1), True)


def frozen(kind="cosine", **overrides) -> SchNet:
    settings = dict(num_gaussians=40) | MODELS[kind] | overrides
    return small_model(**settings).float().freeze()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_atoms", [1, 2, 18])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_automatic_differentiation(kind, num_atoms, dtype):
    model, data = frozen(kind), random_molecule(num_atoms, dtype=dtype)
    output, contributions, x, forces = by_kernel(model, data)
    expected = by_autograd(model, data)
    assert forces.dtype == dtype
    assert torch.allclose(output, expected[0], rtol=1e-6, atol=1e-5)
    assert torch.allclose(contributions, expected[1], rtol=1e-5, atol=1e-5)
    assert torch.allclose(x.double(), expected[2], rtol=1e-4, atol=1e-5)
    assert (forces - expected[3]).abs().max() <= 1e-4 * expected[3].abs().max()


# Whole panels of features, parts of panels, and rows of atoms that do not come in threes.
@pytest.mark.parametrize("num_atoms", [3, 4, 5])
@pytest.mark.parametrize(("hidden", "filters"), [(64, 64), (130, 63), (10, 128)])
def test_widths(hidden, filters, num_atoms):
    model = frozen(hidden_channels=hidden, num_filters=filters)
    data = random_molecule(num_atoms)
    output, _, _, forces = by_kernel(model, data)
    expected = by_autograd(model, data)
    assert torch.allclose(output, expected[0], rtol=1e-6, atol=1e-5)
    assert (forces - expected[3]).abs().max() <= 1e-4 * expected[3].abs().max()


def other_width(model):
    model.interactions[1].conv = frozen(num_filters=16).interactions[1].conv


def few_species(model):
    model.embedding = torch.nn.Embedding(10, 12)


def wide_head(model):
    model.readout.lin1 = frozen(hidden_channels=24).readout.lin1


def short_references(model):
    model.readout.offsets.atomref = model.readout.offsets.atomref[:10]


@pytest.mark.parametrize("change", [other_width, few_species, wide_head, short_references])
def test_shapes_that_are_not_those_of_one_network(change):
    model, data = frozen(), random_molecule(9)
    assert by_kernel(model, data) is not None
    change(model)
    assert by_kernel(model, data) is None


def test_is_what_predict_runs(monkeypatch):
    model, data = frozen(), random_molecule(9)
    expected = model.predict(data)
    monkeypatch.setattr(molecule, "predict", lambda *args: None)
    by_operators = model.predict(data)
    assert not torch.equal(by_operators["forces"], expected["forces"])  # other roundings
    assert torch.allclose(by_operators["forces"], expected["forces"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(by_operators["energy"], expected["energy"], atol=1e-5)


def test_without_forces():
    model, data = frozen(), random_molecule(9)
    output, _, _, forces = by_kernel(model, data, with_forces=False)
    assert forces is None
    assert torch.equal(output, by_kernel(model, data)[0])


@pytest.mark.parametrize("change", ["in place", "data", "offsets", "transposed"])
def test_weights_are_read_at_each_call(change):
    model, data = frozen(), random_molecule(9)
    before = by_kernel(model, data)[0]
    layer = model.interactions[1].lin
    with torch.no_grad():
        if change == "in place":
            layer.weight.mul_(2.0)
        elif change == "data":
            layer.weight.data = layer.weight.data * 2.0
        elif change == "transposed":  # the same memory, read in another order
            layer.weight.data = layer.weight.data.t()
            assert by_kernel(model, data) is None
            layer.weight.data = layer.weight.data.contiguous()
        else:
            model.readout.offsets.set(mean=3.0)
    after = by_kernel(model, data)[0]
    assert (after - before).abs() > 1e-4
    assert torch.allclose(after, by_autograd(model, data)[0], rtol=1e-6, atol=1e-5)


def test_unusual_input_is_left_to_the_operators():
    model, data = frozen(), random_molecule(9)
    padded = data.clone()
    padded.z[2] = 0
    assert by_kernel(model, padded) is None
    assert torch.allclose(
        model.predict(padded)["energy"], by_autograd(model, padded)[0][0], atol=1e-5
    )
    for field, value in (("z", data.z.int()), ("pos", data.pos[:, :2]), ("pos", data.pos.half())):
        other = data.clone()
        other[field] = value
        assert by_kernel(model, other) is None
    batch = Batch.from_data_list([data, data])
    assert torch.allclose(model.predict(batch)["energy"][1], by_kernel(model, data)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("atom", "value", "message"),
    [
        (4, float("nan"), "finite"),
        (4, float("inf"), "finite"),
        (4, None, "same place"),
        (4, 1e3, "beyond the range"),
    ],
)
def test_errors_are_those_of_the_operators(atom, value, message):
    model, data = frozen("all pairs"), random_molecule(9)
    data.pos[atom] = data.pos[0] if value is None else value
    assert by_kernel(model, data) is None
    with pytest.raises(ValueError, match=message):
        model.predict(data)


def test_unknown_species_are_refused():
    model, data = frozen(), random_molecule(9)
    data.z[3] = 6
    model.species[6] = False
    with pytest.raises(ValueError, match="atomic number 6"):
        model.predict(data)
    model.refuse_unknown_species = False
    assert by_kernel(model, data) is not None
