"""Networks of SchNetPack give what SchNetPack itself gave, see make_schnetpack_reference.py."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from molecules import random_molecule
from torch_geometric.data import Batch, Data

from pyg_schnet import SchNet
from pyg_schnet.nn.pickles import load_records
from pyg_schnet.nn.schnetpack_parts import parts_of

HERE = Path(__file__).parent
NAMES = [
    *("v03_whole", "v1_whole", "v1_shared", "v1_dipole", "v2_whole", "v2_state_dict"),
    *("v2_shared", "v2_bessel", "v2_lightning", "v2_centered"),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("schnetpack")
    with zipfile.ZipFile(HERE / "schnetpack_reference.zip") as archive:
        archive.extractall(folder)
    return folder


def load(folder: Path, name: str, **settings) -> tuple[SchNet, Batch, dict]:
    """A model of ours, the atoms and what SchNetPack predicted of them."""
    found = dict(np.load(folder / f"{name}.npz"))
    arguments = json.loads(str(found.pop("arguments")))
    model = SchNet.from_schnetpack(folder / f"{name}.pt", **(arguments | settings))
    z, pos = torch.tensor(found.pop("z")), torch.tensor(found.pop("pos"))
    sizes = found.pop("sizes").tolist()
    molecules = [Data(z=a, pos=b) for a, b in zip(z.split(sizes), pos.split(sizes))]
    if (cell := found.pop("cell", None)) is not None:
        molecules[0].update({"cell": torch.tensor(cell)[None], "pbc": torch.tensor([[True] * 3])})
    return model, Batch.from_data_list(molecules), found


def check(folder: Path, name: str, dtype: torch.dtype) -> None:
    model, data, expected = load(folder, name)
    model = model.to(dtype)
    model.mode = "exact"
    result = model.predict(data, forces="forces" in expected, stress="stress" in expected)
    # PyTorch's softplus leaves out e^-x from x = 20 on, 2e-9; frequencies of Bessel functions and
    # masses are kept in float32.
    exact = {"v2_bessel": 1e-6, "v1_dipole": 1e-7}.get(name, 1e-8)
    rtol = {torch.float32: 2e-5, torch.float64: exact}[dtype]
    assert set(expected) <= {"energy", "forces", "stress", "dipole"}
    for key, value in expected.items():
        theirs = torch.tensor(value).reshape(result[key].shape)
        assert (result[key] - theirs).abs().max() <= rtol * theirs.abs().max(), key
        assert theirs.abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_equal_those_of_schnetpack(name, dtype, reference):
    check(reference, name, dtype)


def test_predictions_equal_those_of_an_installed_schnetpack(tmp_path):
    python = os.environ.get("PYG_SCHNET_SCHNETPACK")
    if python is None:
        pytest.skip("needs SchNetPack: set PYG_SCHNET_SCHNETPACK to a Python that has it")
    script = [python, "-W", "ignore", HERE / "make_schnetpack_reference.py", tmp_path, "7"]
    subprocess.run(script, check=True, capture_output=True)
    names = [path.stem for path in tmp_path.glob("*.pt")]
    assert names
    for name in names:
        check(tmp_path, name, torch.float64)


@pytest.mark.parametrize("name", ["v2_whole", "v2_bessel", "v2_lightning", "v1_whole"])
def test_tables_and_files(name, reference, tmp_path):
    """Fast evaluation, frozen or not, and a file of ours; with the readouts of both versions."""
    model, data, expected = load(reference, name)
    single = [data.get_example(i) for i in range(data.num_graphs)]
    forces = torch.tensor(expected["forces"])

    def error(network):
        alone = torch.cat([network.predict(molecule)["forces"] for molecule in single])
        together = network.predict(data)["forces"]
        largest = torch.maximum((alone - forces).abs().max(), (together - forces).abs().max())
        return largest / forces.abs().max()

    assert error(model) < 1e-4
    assert error(model.freeze()) < 1e-4
    model.save(tmp_path / "ours.safetensors")
    loaded = SchNet.load(tmp_path / "ours.safetensors")
    assert loaded.config == model.config
    assert error(loaded) < 1e-4


def test_settings(reference):
    model = load(reference, "v2_whole", units="kcal/mol")[0]
    assert (model.units, model.target) == ("kcal/mol", "energy")
    assert model.config["head_activation"] == "silu"
    assert (model.cutoff, model.envelope) == (4.0, "cosine")
    assert not model.species[100]
    offsets = model.readout.offsets
    assert offsets.mean == pytest.approx(-1.7)
    assert offsets.atomref[8].item() == pytest.approx(-0.8)
    assert load(reference, "v2_state_dict")[0].units is None
    assert load(reference, "v1_whole")[0].config["head_activation"] == "ssp"
    assert load(reference, "v1_dipole")[0].target == "dipole"
    assert load(reference, "v2_centered")[0].config["readout"] == "mean"


def weights(reference, name="v2_state_dict") -> dict:
    return dict(load_records(reference / f"{name}.pt"))


def test_what_a_state_dict_cannot_say_can_be_said(reference):
    data = random_molecule(6, dtype=torch.float32)
    state = weights(reference)
    silu = SchNet.from_schnetpack(state)
    ssp = SchNet.from_schnetpack(state, head_activation="ssp")
    assert not torch.allclose(silu(data.z, data.pos), ssp(data.z, data.pos))
    mean = SchNet.from_schnetpack(state, readout="mean")
    assert torch.allclose(6 * mean(data.z, data.pos), silu(data.z, data.pos), rtol=1e-6)


def test_prefixes_and_checkpoints(reference):
    """Models wrapped for several devices or by Lightning, and checkpoints of version 1."""
    state, data = weights(reference), random_molecule(6, dtype=torch.float32)
    expected = SchNet.from_schnetpack(state)(data.z, data.pos)
    for source in (
        {f"module.{name}": weight for name, weight in state.items()},
        {"model": state, "epoch": 3, "optimizer": {}},
        {"state_dict": {f"model.{n}": w for n, w in state.items()} | {"other": torch.ones(1)}},
    ):
        assert torch.equal(SchNet.from_schnetpack(source)(data.z, data.pos), expected)


def test_unusable_sources_are_refused(reference):
    state = weights(reference)
    for source in (3, torch.ones(2), [state]):
        with pytest.raises(TypeError, match="expected a file, a state dict or a model of SchNet"):
            SchNet.from_schnetpack(source)
    with pytest.raises(TypeError, match=r"\(got collections.Counter\)"):
        SchNet.from_schnetpack(load_records(io.BytesIO(saved_counter())))
    with pytest.raises(ValueError, match=r"expected one model with .*found 0"):
        SchNet.from_schnetpack({"lin.weight": torch.ones(2)})
    alone = {n: w for n, w in state.items() if n.startswith("representation")}
    with pytest.raises(ValueError, match=r"expected one output module with weights .found 0"):
        SchNet.from_schnetpack(alone)
    other = {n: w for n, w in state.items() if "filter_network" not in n}
    with pytest.raises(ValueError, match=r"has no .*filter_network.0.weight.* not a SchNet"):
        SchNet.from_schnetpack(other)


def saved_counter() -> bytes:
    from collections import Counter

    file = io.BytesIO()
    torch.save(Counter("ab"), file)
    return file.getvalue()


ADDED = {
    "charges": ({"representation.electronic_embeddings.0.w": torch.ones(2)}, "electronic_embed"),
    "fields": ({"input_modules.0.field": torch.ones(3)}, "input_modules.0.field"),
    "mollifier": ({"representation.cutoff_fn.eps": torch.ones(1)}, "MollifierCutoff"),
    "third layer": ({"output_modules.0.outnet.2.weight": torch.ones(1, 1)}, "outnet.2.weight"),
    "two outputs": ({"output_modules.1.outnet.0.weight": torch.ones(4, 8)}, "found 2"),
    "scale": ({"postprocessors.2.scale": torch.ones(1)}, "scales a property.*whole model"),
    "wide": ({"output_modules.0.outnet.0.weight": torch.ones(6, 8)}, r"shape \[6, 8\]"),
    "species": ({"representation.embedding.weight": torch.ones(120, 8)}, "of 120 species"),
}


@pytest.mark.parametrize(("added", "message"), ADDED.values(), ids=ADDED)
def test_parts_without_counterpart_are_refused(added, message, reference):
    with pytest.raises(ValueError, match=message):
        SchNet.from_schnetpack(weights(reference) | added)


def change(record, path, **state):
    """Changes attributes of a module in a model that was read."""
    for name in path.split(".") if path else ():
        record = record.state["_modules"][name]
    record.state.update(state)


def renamed(record, path, kind):
    for name in path.split("."):
        record = record.state["_modules"][name]
    type(record).kind = kind


HIDDEN = {
    "hard cutoff": (
        "v1_whole",
        lambda r: renamed(r, "representation.interactions.0.cutoff_network", "a.HardCutoff"),
        "is a HardCutoff, .* only of CosineCutoff",
    ),
    "average over neighbors": (
        "v1_whole",
        lambda r: change(r, "representation.interactions.0.cfconv.agg", average=True),
        "normalized by the number of neighbors",
    ),
    "dipole vectors": (
        "v1_dipole",
        lambda r: change(r, "output_modules.0", predict_magnitude=False),
        "predicts dipole vectors",
    ),
    "dipoles of version 2": (
        "v2_whole",
        lambda r: renamed(r, "output_modules.0", "schnetpack.atomistic.DipoleMoment"),
        "is a DipoleMoment",
    ),
    "other network": (
        "v2_whole",
        lambda r: renamed(r, "representation", "schnetpack.representation.PaiNN"),
        "is a PaiNN, .* only of SchNet",
    ),
    "atoms alone": (
        "v2_whole",
        lambda r: change(r, "output_modules.0", aggregation_mode=None),
        "does not sum or average atoms",
    ),
    "offsets of a molecule": (
        "v2_whole",
        lambda r: change(r, "postprocessors.1", is_extensive=False),
        "offsets of an intensive property to a sum",
    ),
    "offsets of something else": (
        "v2_whole",
        lambda r: change(r, "postprocessors.1", _property="gap"),
        "adds offsets to 'gap'.* predicts, 'energy'",
    ),
    "scale of something else": (
        "v2_centered",
        lambda r: change(r, "postprocessors.1", output_key="gap"),
        "scales energy, and SchNet has scales of the output only",
    ),
    "activation": (
        "v2_whole",
        lambda r: change(r, "representation.interactions.0.f2out.0", activation=torch.tanh),
        "the interactions have tanh as activation",
    ),
    "activation of the readout": (
        "v2_whole",
        lambda r: change(r, "output_modules.0.outnet.0", activation=torch.tanh),
        "the readout has tanh as activation",
    ),
}


@pytest.mark.parametrize(("name", "alter", "message"), HIDDEN.values(), ids=HIDDEN)
def test_what_only_a_whole_model_tells_is_refused(name, alter, message, reference):
    record = load_records(reference / f"{name}.pt")
    alter(record)
    with pytest.raises(ValueError, match=message):
        SchNet.from_schnetpack(record)


def test_postprocessing_that_is_switched_off_is_left_out(reference):
    record = load_records(reference / "v2_whole.pt")
    change(record, "", do_postprocessing=False)
    assert SchNet.from_schnetpack(record).readout.offsets.is_neutral


def test_modules_in_memory(reference):
    """What a module is need not come from a file."""
    record = load_records(reference / "v2_centered.pt")

    def revive(part, name):
        module = type(type(part).kind.rpartition(".")[2], (torch.nn.Module,), {})()
        for key, value in part.state.items():
            module.__dict__[key] = value
        module.__dict__["_modules"] = {
            key: revive(child, key) for key, child in part.state["_modules"].items()
        }
        return module

    data = random_molecule(6, dtype=torch.float32)
    expected = SchNet.from_schnetpack(record)(data.z, data.pos)
    assert torch.equal(SchNet.from_schnetpack(revive(record, ""))(data.z, data.pos), expected)


def test_schnetpack_is_not_needed(reference):
    load(reference, "v2_whole")
    assert not any(name.split(".")[0] == "schnetpack" for name in sys.modules)
    kind = parts_of(load_records(reference / "v2_whole.pt")).kind("")
    assert kind == "NeuralNetworkPotential"
