"""Files of networks: everything comes back, and what is not understood is refused."""

import pytest
import torch
from molecules import random_molecule, small_model

from pyg_schnet import SchNet
from pyg_schnet.nn import BesselBasis, GaussianBasis, RadialFilter
from pyg_schnet.storage import CorruptFileError, load_tensors, save_tensors

KIND = "SchNet model"
CENTERS, WIDTHS = torch.tensor([0.0, 0.7, 2.0, 3.5]), torch.tensor([0.4, 0.5, 0.9, 1.0])
BASES = {"bessel": lambda: BesselBasis(6, 4.5), "gaussians": lambda: GaussianBasis(CENTERS, WIDTHS)}


@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_bases_of_ours_need_no_function_again(basis, envelope, tmp_path):
    model = small_model(
        filter=lambda: RadialFilter(10, basis(), 4.0, envelope=envelope, num_activations=2)
    )
    model.save(tmp_path / "some.safetensors")
    loaded = SchNet.load(tmp_path / "some.safetensors")
    assert str(loaded.interactions[0].conv.filter) == str(model.interactions[0].conv.filter)
    data = random_molecule(6)
    assert torch.equal(loaded.predict(data)["forces"], model.predict(data)["forces"])


def test_bases_of_others_do(tmp_path):
    class Other(BesselBasis):
        pass

    def make():
        return RadialFilter(10, Other(6, 4.0), 4.0)

    model = small_model(filter=make)
    model.save(tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"had a RadialFilter in place .* give SchNet.load"):
        SchNet.load(tmp_path / "some.safetensors")
    loaded = SchNet.load(tmp_path / "some.safetensors", filter=make)
    data = random_molecule(6)
    assert torch.equal(loaded.predict(data)["forces"], model.predict(data)["forces"])


def altered(tmp_path, change):
    """A file whose tensors and header were changed, with a right checksum."""
    path = tmp_path / "some.safetensors"
    small_model().save(path)
    tensors, header = load_tensors(path, KIND)
    change(tensors, header)
    save_tensors(path, tensors, header, KIND)
    return path


UNKNOWN = r"settings that this pyg-schnet does not know \({}\).*update pyg-schnet"
CHANGES = {
    "setting": (lambda t, h: h["config"].update(spin=True), UNKNOWN.format("spin")),
    "field": (lambda t, h: h.update(charges=[1.0]), UNKNOWN.format("charges")),
    "no config": (lambda t, h: h.pop("config"), "its header lacks settings of the model"),
    "no graph": (lambda t, h: h.pop("interaction_graph"), "its header lacks settings"),
    "no tensor": (lambda t, h: t.pop("embedding.weight"), "not those of its settings.*embedding"),
    "more": (lambda t, h: t.update(extra=torch.zeros(1)), "not those of its settings.*extra"),
    "shape": (
        lambda t, h: t.update({"embedding.weight": torch.zeros(101, 5)}),
        "not those of its settings.*size mismatch",
    ),
    "width": (lambda t, h: h["config"].update(hidden_channels=16), "size mismatch"),
    # Networks of such sizes would fill the memory before anything was compared.
    "depth": (
        lambda t, h: h["config"].update(num_interactions=10**9),
        "1000000000 and should be 2",
    ),
    "filters": (lambda t, h: h["config"].update(num_filters=10**9), "1000000000 and should be 10"),
    "basis": (lambda t, h: h["config"].update(num_gaussians=10**9), "1000000000 and should be 8"),
    "kind": (lambda t, h: h["config"].update(cutoff="long"), "its settings make no sense"),
    "no weights": (
        lambda t, h: t.update({"embedding.weight": torch.zeros(101, 12).long()}),
        "got torch.int64",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_does_not_fit_is_refused(change, message, tmp_path):
    path = altered(tmp_path, change)
    with pytest.raises(CorruptFileError, match=f"(?s){message}"):
        SchNet.load(path)


def test_files_from_before_the_activation_was_a_choice(tmp_path):
    def forget(tensors, header):
        del header["config"]["head_activation"], header["basis"], header["filter"]
        state = b'{"readout": "sum"}'
        tensors["readout._extra_state"] = torch.tensor(list(state), dtype=torch.uint8)

    data = random_molecule(6)
    loaded = SchNet.load(altered(tmp_path, forget))
    assert torch.equal(loaded.predict(data)["forces"], small_model().predict(data)["forces"])


@pytest.mark.parametrize("version", [2, "two", None])
def test_other_versions_are_refused(version, tmp_path, monkeypatch):
    path = tmp_path / "some.safetensors"
    monkeypatch.setattr("pyg_schnet.storage._VERSION", version)
    small_model().save(path)
    monkeypatch.undo()
    with pytest.raises(CorruptFileError, match=r"has format version 2, |has no 'pyg_schnet'"):
        SchNet.load(path)


@pytest.mark.parametrize("header", [[], "x", 3, None])
def test_headers_of_another_kind(header, tmp_path):
    save_tensors(tmp_path / "some.safetensors", {"a": torch.zeros(1)}, header, KIND)
    with pytest.raises(CorruptFileError, match="its header is a"):
        SchNet.load(tmp_path / "some.safetensors")


def test_the_directory_of_a_run(tmp_path):
    model, data = small_model(), random_molecule(6)
    with pytest.raises(
        FileNotFoundError, match=r"is no directory of a run.* no 'best.safetensors'"
    ):
        SchNet.load(tmp_path)
    model.save(tmp_path / "best.safetensors")
    for path in (tmp_path, str(tmp_path)):
        assert torch.equal(SchNet.load(path).predict(data)["energy"], model.predict(data)["energy"])
    (tmp_path / "best.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptFileError, match=r"best.safetensors' is damaged"):
        SchNet.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file 'runs/x'"):
        SchNet.load("runs/x")
    with pytest.raises(ValueError, match=r"no trained model .*; SchNet.load\('.*'\) loads a model"):
        SchNet.from_pretrained(str(tmp_path))
