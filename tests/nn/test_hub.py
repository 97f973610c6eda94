"""Uploads and downloads of networks, up to the functions of huggingface_hub; nothing is sent."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from molecules import random_molecule, small_model

from pyg_schnet import SchNet


class FakeHub:
    """A hub in a folder, called as huggingface_hub is."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls: list[tuple[str, dict]] = []

    def HfApi(self, **arguments):
        self.calls.append(("HfApi", arguments))
        return SimpleNamespace(create_repo=self.create_repo, upload_file=self.upload_file)

    def create_repo(self, **arguments):
        self.calls.append(("create_repo", arguments))

    def upload_file(self, **arguments):
        self.calls.append(("upload_file", arguments))
        content = Path(arguments["path_or_fileobj"]).read_bytes()
        (self.folder / arguments["path_in_repo"]).write_bytes(content)
        return "https://huggingface.co/someone/some/commit/1"

    def hf_hub_download(self, **arguments):
        self.calls.append(("hf_hub_download", arguments))
        return str(self.folder / arguments["filename"])


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_round_trip(hub):
    model, data = small_model(units="eV"), random_molecule(6)
    address = model.push_to_hub("someone/some", private=True, token="t", commit_message="first")
    assert address == "https://huggingface.co/someone/some/commit/1"
    loaded = SchNet.from_hub("someone/some", revision="v1", token="t")
    assert loaded.units == "eV"
    assert torch.equal(loaded.predict(data)["forces"], model.predict(data)["forces"])
    calls = dict(hub.calls)
    assert calls["HfApi"] == {"token": "t"}
    assert calls["create_repo"] == {"repo_id": "someone/some", "private": True, "exist_ok": True}
    assert calls["upload_file"]["commit_message"] == "first"
    assert calls["hf_hub_download"]["revision"] == "v1"


def test_calls_are_those_of_the_real_package(hub):
    """Its functions have the arguments that ours give."""
    small_model().push_to_hub("someone/some")
    SchNet.from_hub("someone/some")
    calls = dict(hub.calls)
    sys.modules.pop("huggingface_hub")
    real = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    inspect.signature(real.HfApi).bind(**calls["HfApi"])
    inspect.signature(real.hf_hub_download).bind(**calls["hf_hub_download"])
    for name in ("create_repo", "upload_file"):
        inspect.signature(getattr(real.HfApi(), name)).bind(**calls[name])


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: small_model().push_to_hub("a/b"), lambda: SchNet.from_hub("a/b")):
        with pytest.raises(ImportError, match=r"pip install pyg-schnet\[hub\]"):
            call()
