"""Files of torch.save become data: nothing in them runs, whatever they ask for."""

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from pyg_schnet.nn.pickles import Record, load_records
from pyg_schnet.storage import CorruptFileError


def saved(thing, legacy=False) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(thing, file, _use_new_zipfile_serialization=not legacy)
    file.seek(0)
    return file


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_attacks_do_nothing(legacy, tmp_path):
    marker = tmp_path / "run"
    content = saved({"a": Attack(f"touch {marker}"), "b": torch.ones(2)}, legacy)
    loaded = load_records(content)
    assert not marker.exists()
    assert type(loaded["a"]).kind.endswith(".system")
    assert loaded["a"].args == (f"touch {marker}",)
    content.seek(0)
    torch.load(content, weights_only=False)  # the attack is a real one
    assert marker.exists()


def program(*opcodes: bytes) -> io.BytesIO:
    """An archive with a pickle written by hand."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"".join(opcodes) + b".")
    file.seek(0)
    return file


def test_names_are_never_imported():
    """The name of a module that is not there, and one that prints when it is imported."""
    loaded = load_records(program(b"cnot_a_module.at_all\nThing\n"))
    assert loaded.kind == "not_a_module.at_all.Thing"
    assert load_records(program(b"cthis\nd\n")).kind == "this.d"
    with pytest.raises(AttributeError):
        _ = loaded.state  # a class was named, none was made


@pytest.mark.parametrize("name", [b"_rebuild_tensor_v2", b"FloatStorage"])
def test_functions_of_ours_cannot_be_changed(name):
    """BUILD sets attributes of whatever is on the stack."""
    state = pickle.dumps({"__defaults__": (1,)}, 2)[2:-1]
    with pytest.raises(CorruptFileError, match="tries to change a function"):
        load_records(program(b"ctorch\n", name, b"\n", state, b"b"))


@pytest.mark.parametrize("legacy", [False, True])
def test_values_are_those_of_torch(legacy):
    base = torch.arange(12.0).view(3, 4)
    things = OrderedDict(
        whole=base,
        view=base[1:, ::2],
        transposed=base.t(),
        half=torch.randn(3).half(),
        wide=torch.randn(2, 2).double(),
        brain=torch.ones(2, dtype=torch.bfloat16),
        whole_numbers=torch.tensor([-1, 2**40]),
        flags=torch.tensor([True, False]),
        empty=torch.empty(0, 3),
        scalar=torch.tensor(2.5),
        parameter=nn.Parameter(torch.randn(2)),
        nested=[1, (2.5, "text"), {"set": {1, 2}}, None, b"bytes", 2**70],
    )
    loaded = load_records(saved(things, legacy))
    expected = torch.load(saved(things, legacy), weights_only=False)
    assert list(loaded) == list(expected)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded[name], value), name
            assert loaded[name].dtype == value.dtype
    assert loaded["nested"][:4] == expected["nested"][:4]
    assert loaded["nested"][5] == 2**70


@pytest.mark.parametrize("legacy", [False, True])
def test_modules_become_records(legacy):
    model = nn.Sequential(nn.Linear(2, 3), nn.SiLU(), nn.BatchNorm1d(3))
    model.function = torch.nn.functional.silu
    loaded = load_records(saved(model, legacy))
    assert isinstance(loaded, Record)
    assert type(loaded).kind == "torch.nn.modules.container.Sequential"
    first = loaded.state["_modules"]["0"].state
    assert torch.equal(first["_parameters"]["weight"], model[0].weight)
    assert first["in_features"] == 2
    assert loaded.state["function"].kind == "torch.nn.functional.silu"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(legacy, kept, tmp_path):
    content = saved({"a": torch.randn(100)}, legacy).getvalue()
    path = tmp_path / "some.pt"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CorruptFileError, match=r"some.pt' is damaged or was not written by torch"):
        load_records(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "some.pt"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_records(path)
    path.write_text("not a pickle at all")
    with pytest.raises(CorruptFileError, match=r"some.pt' is damaged"):
        load_records(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(CorruptFileError, match=r"an archive, but not one of torch\.save"):
        load_records(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", "")
        archive.writestr("a/constants.pkl", "")
    with pytest.raises(ValueError, match="is a TorchScript module, code that would be run"):
        load_records(path)


def test_tensors_stay_within_their_storage():
    """A view that reaches beyond the numbers in the file would show what else is in memory."""
    good = saved(torch.zeros(4), legacy=True).getvalue()
    sizes = b"K\x04\x85"  # (4,)
    assert good.count(sizes) == 1
    with pytest.raises(CorruptFileError, match="out of bounds"):
        load_records(io.BytesIO(good.replace(sizes, b"K\x44\x85")))


def test_sizes_in_the_old_format_are_checked():
    """A size of which the file has no numbers must not be allocated."""
    content = saved(torch.zeros(4), legacy=True).getvalue()
    claimed = content.replace(b"K\x04N", b"J" + struct.pack("<i", 2**30) + b"N")
    assert claimed != content
    with pytest.raises(CorruptFileError, match="a storage of 1073741824 numbers is not in the"):
        load_records(io.BytesIO(claimed))


def test_no_opcode_asks_for_memory_that_the_file_does_not_need():
    """LONG_BINPUT with the number two thousand million: in C that makes a table of 32 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = load_records(program(b"K\x07r\xff\xff\xff\x7f"))
    assert loaded == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # in KB


def test_no_tensor_is_far_larger_than_its_numbers():
    """Strides of zero make many out of one, and a network of such sizes fills the memory."""
    bias = torch.zeros(1).expand(64)
    assert torch.equal(load_records(saved(bias)), bias)
    with pytest.raises(CorruptFileError, match=r"shape \[1000000, 1000000\] out of 1 numbers"):
        load_records(saved(torch.zeros(1).expand(1_000_000, 1_000_000)))
