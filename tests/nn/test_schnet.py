import copy
import math

import pytest
import torch
from molecules import random_molecule, small_model
from safetensors.torch import load_file, save_file
from torch_geometric.data import Batch, Data

from pyg_schnet import RadiusGraph, SchNet, edge_lengths, radius_graph
from pyg_schnet.storage import CorruptFileError


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_the_paper_network():
    model = SchNet.paper()
    assert count(model) - count(model.embedding) == 109_825
    assert model.embedding.weight.shape == (101, 64)
    assert count(model) == 116_289
    basis = model.interactions[0].conv.filter.basis
    assert torch.allclose(basis.offset, torch.arange(300) / 10, atol=1e-5)
    assert basis.gamma == 10.0


def test_paper_overrides():
    model = SchNet.paper(num_interactions=6, envelope="cosine", cutoff=5.0)
    assert len(model.interactions) == 6
    assert model.cutoff == 5.0
    with pytest.raises(TypeError, match="hidden"):
        SchNet.paper(hidden=3)


def test_signature_begins_like_that_of_pyg():
    import inspect

    from torch_geometric.nn import SchNet as PyGSchNet

    theirs = inspect.signature(PyGSchNet).parameters
    ours = inspect.signature(SchNet).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    differ = {name for name in theirs if theirs[name].default != ours[name].default}
    assert differ == {"max_num_neighbors"}  # on purpose


def test_shapes_and_dtypes(model, batch):
    out = model(batch.z, batch.pos, batch.batch)
    assert out.shape == (5, 1)
    assert out.dtype == torch.float64
    out = model.float()(batch.z, batch.pos.float(), batch.batch)
    assert out.shape == (5, 1)
    assert out.dtype == torch.float64


def test_readout_mean_of_offsets():
    model = small_model(readout="mean", mean=2.0, std=1.0, atomref=None)
    torch.nn.init.zeros_(model.readout.lin2.weight)
    torch.nn.init.zeros_(model.readout.lin2.bias)
    data = Batch.from_data_list([random_molecule(3), random_molecule(7)])
    assert torch.allclose(model.predict(data)["energy"], torch.full((2,), 2.0).double())


def test_stored_edges_change_nothing(model, batch):
    expected = model.predict(batch)
    edges = RadiusGraph(30.0 if model.envelope == "none" else model.cutoff)(batch.clone())
    for data in (edges, batch.clone().update(dict(edge_index=edges.edge_index[:, :3]))):
        # An edge_index without distances may be bonds and is not used.
        result = model.predict(data)
        for name, value in expected.items():
            assert torch.allclose(result[name], value, rtol=1e-12)
    edge_index = edges.edge_index
    out = model(batch.z, batch.pos, batch.batch, edge_index)
    assert torch.allclose(out.squeeze(1), expected[model.target])


def test_short_stored_edges_are_refused(batch):
    data = RadiusGraph(3.0)(batch)
    with pytest.raises(ValueError, match=r"reach to 3 A, the model to 4 A.*cutoff=4"):
        small_model().predict(data)
    with pytest.raises(ValueError, match="leave out pairs"):
        small_model(envelope="none", cutoff=30.0).predict(data)


def test_interaction_graph():
    def graph(pos, batch):
        edge_index = radius_graph(pos, 2.0, batch)
        return edge_index, edge_lengths(pos, edge_index)

    data = random_molecule(8)
    model = small_model(interaction_graph=graph)
    expected = small_model()(data.z, data.pos, edge_index=radius_graph(data.pos, 2.0))
    assert torch.allclose(model(data.z, data.pos), expected)

    model.interaction_graph = lambda pos, batch: tuple(t.detach() for t in graph(pos, batch))
    model(data.z, data.pos)
    with pytest.raises(ValueError, match="distances without gradients"):
        model.predict(data)


def test_interaction_graph_wins_over_stored_edges_and_is_needed_to_load(tmp_path):
    def graph(pos, batch):
        edge_index = radius_graph(pos, 2.0, batch)
        return edge_index, edge_lengths(pos, edge_index)

    data = random_molecule(8)
    model = small_model(interaction_graph=graph)
    expected = model.predict(data)["energy"]
    assert torch.equal(model.predict(RadiusGraph(4.0)(data.clone()))["energy"], expected)
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="had an interaction_graph of its own"):
        SchNet.load(tmp_path / "model.safetensors")
    loaded = SchNet.load(tmp_path / "model.safetensors", interaction_graph=graph)
    assert torch.equal(loaded.predict(data)["energy"], expected)


def test_edges_of_moved_atoms_and_bonds_are_refused():
    data = RadiusGraph(4.0)(random_molecule(8))
    small_model().predict(data)
    moved = data.clone()
    moved.pos[0] += 0.1
    with pytest.raises(ValueError, match="have the atoms moved since"):
        small_model().predict(moved)
    bonds = data.clone()
    bonds.edge_weight = torch.ones_like(bonds.edge_weight)
    with pytest.raises(ValueError, match="are these bonds"):
        small_model().predict(bonds)


@pytest.mark.parametrize(
    ("edge_index", "error", "message"),
    [
        (torch.tensor([[0], [3]]), ValueError, r"atoms from 0 to 2 \(got 0 to 3\)"),
        (torch.tensor([[0], [-1]]), ValueError, "atoms from 0 to 2"),
        (torch.tensor([[0], [2]]), ValueError, "atoms 0 and 2, which belong to different"),
        (torch.tensor([0, 1]), ValueError, r"shape \[2, E\]"),
        (torch.tensor([[0.0], [1.0]]), TypeError, "must be int64"),
        (torch.tensor([[1], [1]]), ValueError, "atoms 1 and 1 are at the same place"),
    ],
)
def test_bad_edges(edge_index, error, message):
    with pytest.raises(error, match=message):
        small_model()(
            torch.tensor([1, 6, 8]), torch.eye(3).double(), torch.tensor([0, 0, 1]), edge_index
        )


def test_small_integers_as_atomic_numbers():
    data = random_molecule(5)
    model = small_model()
    expected = model(data.z, data.pos)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(model(data.z.to(dtype), data.pos), expected)
        assert torch.equal(
            model.predict(Data(z=data.z.to(dtype), pos=data.pos))["energy"], expected[0]
        )


def test_molecules_batched_by_hand():
    one, two = random_molecule(5), random_molecule(3)
    data = Data(
        z=torch.cat([one.z, two.z]),
        pos=torch.cat([one.pos, two.pos]),
        batch=torch.tensor([0] * 5 + [1] * 3),
    )
    expected = small_model().predict(Batch.from_data_list([one, two]))["energy"]
    assert torch.equal(small_model().predict(data)["energy"], expected)
    assert torch.equal(small_model().predict(RadiusGraph(4.0)(data))["energy"], expected)


def test_target_and_units(tmp_path):
    model = small_model(dipole=True)
    assert set(model.predict(random_molecule(3))) == {"dipole"}
    with pytest.raises(ValueError, match="does not predict energies"):
        small_model(dipole=True, target="energy")
    model = small_model()
    model.units = "kcal/mol"
    model.save(tmp_path / "model.safetensors")
    assert SchNet.load(tmp_path / "model.safetensors").units == "kcal/mol"


def test_on_the_meta_device():
    with torch.device("meta"):
        model = SchNet(8, 8, 1)
    assert model.embedding.weight.is_meta


def test_predict_leaves_the_data_alone(energy_model, batch):
    before = batch.clone()
    energy_model.predict(batch)
    assert batch.keys() == before.keys()
    assert torch.equal(batch.pos, before.pos)
    assert not batch.pos.requires_grad
    assert all(p.grad is None for p in energy_model.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_predict_in_any_gradient_mode(energy_model, context):
    expected = energy_model.predict(random_molecule(6))
    with context():
        result = energy_model.predict(random_molecule(6))
    assert expected["forces"].abs().max() > 0
    for name, value in expected.items():
        assert torch.equal(result[name], value)
        assert not result[name].requires_grad


def test_predict_on_request(model, batch):
    result = model.predict(batch, forces=False, energies=True, features=True)
    assert set(result) == {model.target, "energies", "features"}
    assert result["features"].shape == (17, 12)
    if model.readout.__class__.__name__ == "AtomwiseReadout" and model.readout.reduce == "sum":
        total = torch.zeros(5).double().index_add(0, batch.batch, result["energies"])
        assert torch.allclose(total, result["energy"])


def test_target_names_the_prediction():
    result = small_model(target="homo", readout="mean", units="eV").predict(random_molecule(4))
    assert set(result) == {"homo"}


def test_forces_have_the_dtype_of_the_positions(batch):
    model = small_model().float()
    assert model.predict(batch)["forces"].dtype == torch.float64
    batch.pos = batch.pos.float()
    assert model.predict(batch)["forces"].dtype == torch.float32


def test_save_and_load(tmp_path, model, batch):
    model.species[53] = False
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = SchNet.load(path)
    assert loaded.config == model.config
    assert loaded.units == model.units
    assert torch.equal(loaded.species, model.species)
    assert torch.equal(loaded.predict(batch)[model.target], model.predict(batch)[model.target])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["start", "header", "tensors", "end"])
def test_damaged_files_are_refused(tmp_path, where):
    path = tmp_path / "model.safetensors"
    small_model().save(path)
    content = bytearray(path.read_bytes())
    if where == "end":
        content = content[:-100]
    else:
        content[{"start": 0, "header": 40, "tensors": -5}[where]] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"model.safetensors"):
        SchNet.load(path)


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        SchNet.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CorruptFileError, match="not written by pyg-schnet"):
        SchNet.load(path)


def test_state_dict_round_trips(tmp_path, model, batch):
    expected = model.predict(batch)[model.target]
    settings = dict(model.config)
    save_file(model.state_dict(), tmp_path / "state.safetensors")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    for state in (
        load_file(tmp_path / "state.safetensors"),
        torch.load(tmp_path / "state.pt", weights_only=True),
    ):
        other = SchNet(**settings).double()
        other.load_state_dict(state)  # offsets come along
        assert torch.equal(other.predict(batch)[model.target], expected)


OTHERS = [
    dict(cutoff=5.0),
    dict(cutoff=5.0, gaussian_range=(0.0, 4.0)),
    dict(gamma=3.0),
    dict(envelope="polynomial"),
    dict(envelope="none"),
    dict(num_activations=2),
    dict(readout="mean"),
    dict(head_activation="silu"),
]


@pytest.mark.parametrize("settings", OTHERS, ids=str)
def test_state_of_another_architecture_is_refused(settings):
    """All of these have weights of the same shapes."""
    with pytest.raises(ValueError, match=r"weights of another architecture: in .* was .* and is"):
        small_model(**settings).load_state_dict(small_model().state_dict())


def test_copies(model, batch):
    expected = model.predict(batch)[model.target]
    assert torch.equal(copy.deepcopy(model).predict(batch)[model.target], expected)


def test_reset_parameters_keeps_offsets():
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    model.reset_parameters()
    after = model.state_dict()
    assert not torch.equal(before["embedding.weight"], after["embedding.weight"])
    assert torch.equal(before["readout.offsets.atomref"], after["readout.offsets.atomref"])


def test_mse_loss_with_float32_labels():
    data = random_molecule(5, dtype=torch.float32)
    model = small_model().float()
    loss = torch.nn.functional.mse_loss(model(data.z, data.pos), torch.zeros(1, 1))
    loss.backward()
    assert model.embedding.weight.grad.abs().max() > 0


BAD = [
    (
        dict(pos=torch.full((3, 3), math.nan)),
        ValueError,
        r"finite \(got \[nan, nan, nan\] for atom 0",
    ),
    (
        dict(pos=torch.eye(3, dtype=torch.double) * 1e200),
        ValueError,
        r"below 3.9e\+153 .* for atom 0",
    ),
    (dict(pos=torch.zeros(2, 3)), ValueError, r"one row per atom, \[3, D\] \(got \[2, 3\]\)"),
    (dict(pos=torch.zeros(3, 3)), ValueError, "atoms 0 and 1 are at the same place"),
    (dict(pos=torch.zeros(3, 3, dtype=torch.long)), TypeError, "floating-point"),
    (dict(z=torch.tensor([1, 101, 1])), ValueError, r"1 to 100 \(got 101 for atom 1\)"),
    (dict(z=torch.tensor([1, -1, 1])), ValueError, "got -1 for atom 1"),
    (dict(z=torch.tensor([1.0, 2, 3])), TypeError, "integers"),
    (dict(z=torch.tensor([[1], [2], [3]])), ValueError, r"shape \[N\]"),
    (dict(z=torch.tensor([1, 17, 6])), ValueError, r"not trained on atomic number 17 \(atom 1\)"),
    (dict(batch=torch.tensor([0, 1, 0])), ValueError, "'batch' must be sorted"),
    (dict(batch=torch.tensor([0, 1])), ValueError, "one entry per atom"),
    (dict(batch=torch.tensor([0.0, 0, 1])), TypeError, "'batch' must hold integers"),
    (dict(z=[8, 1, 1]), TypeError, r"'z' must be a tensor \(got list\)"),
    (dict(z=torch.ones(3).cfloat()), TypeError, r"'z' must hold integers.*complex64"),
    (dict(edge_index=[[0], [1]]), TypeError, r"'edge_index' must be a tensor \(got list\)"),
    (dict(batch=torch.tensor([-1, 0, 0])), ValueError, "must not be negative"),
    (dict(batch=torch.tensor([1, 0, 1], dtype=torch.uint8)), TypeError, "int64 .got torch.uint8"),
    (dict(batch=torch.tensor([0, 0, 2]), batch_size=2), ValueError, "got 0 to 2, batch_size 2"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input(arguments, error, message):
    model = small_model().float()
    model.species[17] = False
    good = dict(z=torch.tensor([1, 6, 8]), pos=torch.eye(3))
    with pytest.raises(error, match=message):
        model(**(good | arguments))


def test_beyond_the_range_without_envelope():
    model = small_model(envelope="none", cutoff=6.0)
    pos = torch.tensor([[0.0, 0, 0], [6.5, 0, 0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"6.5 A is beyond the range"):
        model(torch.tensor([1, 1]), pos)


def test_bad_data():
    model = small_model()
    with pytest.raises(
        ValueError, match=r"must have 'pos', a tensor \(got NoneType; the fields are"
    ):
        model.predict(Data(z=torch.tensor([1])))
    arrays = random_molecule(3)
    arrays.batch = arrays.z.new_zeros(3).numpy()
    with pytest.raises(TypeError, match=r"'batch' must be a tensor \(got ndarray\)"):
        small_model().predict(arrays)
    with pytest.raises(TypeError, match=r"expected a Data or Batch \(got list\)"):
        model.predict([random_molecule(3)])
    data = random_molecule(3)
    data.pbc = torch.tensor([[True, False, False]])
    with pytest.raises(ValueError, match="periodic"):
        model.predict(data)


def test_bad_settings():
    with pytest.raises(ValueError, match="dipole moment has no"):
        SchNet(dipole=True, mean=1.0)
    with pytest.raises(ValueError, match="'readout' must be"):
        SchNet(readout="max")
    with pytest.raises(ValueError, match="'envelope' must be"):
        SchNet(envelope="box")
    for settings in (dict(hidden_channels=1), dict(num_interactions=-1)):
        with pytest.raises(ValueError, match="expected 'hidden_channels' of at least 2"):
            SchNet(**settings)
    for settings in (dict(cutoff=math.nan), dict(cutoff=-1.0), dict(cutoff=math.inf)):
        with pytest.raises(ValueError, match=r"'cutoff' must be positive and finite|must ascend"):
            SchNet(envelope="none", gaussian_range=(0.0, 5.0), **settings)
    with pytest.raises(ValueError, match="'gamma' must be positive and finite"):
        SchNet(gamma=math.inf)
