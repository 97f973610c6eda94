"""Damaged and malicious files of models: loaded as they were, or refused in words; nothing runs."""

import io
import os
import pickletools
import zipfile
from functools import cache

import pytest
import torch
from fuzzing import answer, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st
from molecules import random_molecule

from pyg_schnet import SchNet
from pyg_schnet.nn.pickles import load_records
from pyg_schnet.storage import load_tensors, save_tensors
from pyg_schnet.training import TrainConfig, fit
from pyg_schnet.training.saved import load_model

KINDS = {"model": "SchNet model", "checkpoint": "training checkpoint"}


def tiny() -> SchNet:
    torch.manual_seed(0)
    return SchNet(4, 4, 1, 5, cutoff=4.0, units="eV")


@cache
def sound(kind: str, folder) -> bytes:
    """A file without fault."""
    path = folder / f"sound_{kind}"
    if kind == "model":
        tiny().save(path)
        return path.read_bytes()
    molecules = [random_molecule(4, seed=i, dtype=torch.float32) for i in range(2)]
    for data in molecules:
        data.energy = torch.zeros(1)
    fit(tiny(), molecules, molecules, TrainConfig(max_steps=1), path)
    return (path / "last.safetensors").read_bytes()


def check(model: SchNet) -> None:
    """It answers with numbers, or says why not."""
    data = random_molecule(3, dtype=torch.float32)
    result = answer(lambda: model.predict(data))
    assert result is None or result[model.target].shape == (1,)


@pytest.mark.parametrize("kind", KINDS)
@fuzz(25)
@given(data=st.data())
def test_damaged_files(kind, data, tmp_path_factory):
    """A checksum protects the tensors, JSON the rest: whatever loads is what was saved."""
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.safetensors"
    path.write_bytes(data.draw(damaged(sound(kind, folder))))
    model = answer(lambda: load_model(path))
    if model is None:
        return
    (folder / "whole").write_bytes(sound(kind, folder))
    expected = load_model(folder / "whole").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def opened(kind, folder):
    """A place for an altered file, and what a sound one holds."""
    path = folder / "altered.safetensors"
    path.write_bytes(sound(kind, folder))
    return path, *load_tensors(path, KINDS[kind])


ODD = (None, True, -1, 0, 3, 10**9, 10**30, 1e308, float("nan"), "x", "cosine", [], {}, [1.0, 2.0])


@pytest.mark.parametrize("kind", KINDS)
@fuzz(20)
@given(data=st.data())
def test_settings_that_make_no_sense(kind, data, tmp_path_factory):
    """With a right checksum, so that only the settings themselves can tell."""
    path, tensors, header = opened(kind, tmp_path_factory.getbasetemp())
    part = header["config" if kind == "model" else "model"]
    place = data.draw(st.sampled_from((*part, "", "header")))
    value = data.draw(st.sampled_from(ODD))
    if place == "":
        header[data.draw(st.sampled_from(sorted(header)))] = value
    elif place == "header":
        header.pop(data.draw(st.sampled_from(sorted(header))))
    else:
        part[place] = value
    save_tensors(path, tensors, header, KINDS[kind])
    model = answer(lambda: load_model(path))
    if model is not None:
        check(model)


@pytest.mark.parametrize("kind", KINDS)
@fuzz(25)
@given(data=st.data())
def test_other_tensors(kind, data, tmp_path_factory):
    path, tensors, header = opened(kind, tmp_path_factory.getbasetemp())
    name = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(("missing", "int", "half", "short", "scalar", "bytes", "nan")))
    value = tensors.pop(name)
    if how == "int":
        tensors[name] = value.nan_to_num(posinf=0.0).long()
    elif how == "half":
        tensors[name] = value.half()
    elif how == "short":
        tensors[name] = value.flatten()[:-1].clone()
    elif how == "scalar":
        tensors[name] = torch.tensor(1.0)
    elif how == "bytes":
        content = data.draw(st.binary(max_size=30))
        tensors[name] = torch.tensor(list(content), dtype=torch.uint8)
    elif how == "nan":
        tensors[name] = torch.full_like(value, float("nan") if value.is_floating_point() else 1)
    save_tensors(path, tensors, header, KINDS[kind])
    model = answer(lambda: load_model(path))
    if model is not None:
        check(model)


@fuzz(20)
@given(data=st.data())
def test_resuming_damaged_checkpoints(data, tmp_path_factory):
    """Every part of the header may be missing or another thing."""
    folder = tmp_path_factory.getbasetemp() / "resumed"
    folder.mkdir(exist_ok=True)
    path = folder / "last.safetensors"
    path.write_bytes(sound("checkpoint", tmp_path_factory.getbasetemp()))
    tensors, header = load_tensors(path, KINDS["checkpoint"])
    part = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        tensors.pop(data.draw(st.sampled_from(sorted(tensors))))
    elif isinstance(header[part], dict) and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(header[part])))
        header[part][name] = data.draw(st.sampled_from(ODD))
    else:
        header[part] = data.draw(st.sampled_from(ODD))
    save_tensors(path, tensors, header, KINDS["checkpoint"])
    molecules = [random_molecule(4, seed=i, dtype=torch.float32) for i in range(2)]
    for one in molecules:
        one.energy = torch.zeros(1)
    settings = TrainConfig(max_steps=1)
    answer(
        lambda: fit(tiny(), molecules, molecules, settings, folder, resume=True),
        others=(FloatingPointError,),
    )


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@cache
def pickled(legacy: bool, folder) -> bytes:
    file = io.BytesIO()
    state = {"a": torch.arange(6.0).view(2, 3), "b": Attack(folder / "attacked"), "c": [1, "x"]}
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@fuzz(20)
@given(data=st.data())
def test_damaged_pickles(legacy, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    content = data.draw(damaged(pickled(legacy, folder)))
    answer(lambda: load_records(io.BytesIO(content)))
    answer(lambda: SchNet.from_schnetpack(written(folder, "best_model", content)))
    assert not (folder / "attacked").exists()


OPCODES = tuple(op.code.encode("latin-1") for op in pickletools.opcodes)


CALLS = (b"cos\nmkdir\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"K\x01", b"}")


@fuzz(80)
@given(
    program=st.lists(
        st.one_of(
            st.sampled_from(OPCODES),
            st.binary(max_size=6),
            st.sampled_from(CALLS),
        ),
        max_size=25,
    ),
    archive=st.booleans(),
)
def test_programs(program, archive):
    """Pickles made of any opcodes."""
    content = b"\x80\x02" + b"".join(program) + b"."
    if archive:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a/data.pkl", content)
        content = file.getvalue()
    answer(lambda: load_records(io.BytesIO(content)))


def written(folder, name: str, content: bytes):
    path = folder / name
    path.write_bytes(content)
    return path


@cache
def archived() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        inner = io.BytesIO()
        torch.save({"representation.embedding.weight": torch.ones(3, 4)}, inner)
        archive.writestr("trained_schnet_models/qm9_energy_U0/best_model", inner.getvalue())
    return file.getvalue()


@fuzz(20)
@given(content=damaged(archived()))
def test_archives_of_pyg(content, tmp_path_factory):
    path = written(tmp_path_factory.getbasetemp(), "trained.zip", content)
    missing = (FileNotFoundError,)
    assert answer(lambda: SchNet.from_pyg_archive(path, "U0"), others=missing) is None
