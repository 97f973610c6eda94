"""Molecules of the shipped sample, written in the format of the original archive."""

import bz2
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyg_schnet.datasets.download import RemoteFile
from pyg_schnet.datasets.qm9 import QM9
from pyg_schnet.datasets.qm9_properties import RawMolecules
from pyg_schnet.datasets.sample import read_sample

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}


class SmallQM9(QM9):
    """QM9 with ten molecules out of twelve, and with files nobody can download."""

    num_molecules = 12
    num_uncharacterized = 2
    # Port 9 discards; nothing listens there.
    archive = RemoteFile(QM9.archive.name, ["http://127.0.0.1:9/archive"])
    uncharacterized = RemoteFile(QM9.uncharacterized.name, ["http://127.0.0.1:9/list"])


def xyz_text(raw: RawMolecules, row: int) -> str:
    """One molecule as in the archive, trailing tabs included."""
    molecule = raw.take(np.array([row]))
    n = int(molecule.num_atoms[0])
    # repr has all digits; the original numbers have at most ten decimals.
    properties = [repr(float(value)) for value in molecule.properties[0]]
    atoms = [
        "\t".join([SYMBOLS[int(z)], *(repr(float(x)) for x in position), "-0.1"])
        for z, position in zip(molecule.z, molecule.pos)
    ]
    lines = [
        str(n),
        f"gdb {molecule.index[0]}\t" + "\t".join(properties) + "\t",
        *atoms,
        "\t".join(["1341.307"] * max(3 * n - 6, 1)),
        f"{molecule.smiles[0]}\tanother\t",
        "InChI=1S/a\tInChI=1S/b",
    ]
    return "\n".join(lines) + "\n"


def write_archive(path: Path, texts: Sequence[str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i, text in enumerate(texts, start=1):
            member = tarfile.TarInfo(f"dsgdb9nsd_{i:06d}.xyz")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    path.write_bytes(bz2.compress(buffer.getvalue()))


@pytest.fixture(scope="session")
def raw() -> RawMolecules:
    """Twelve molecules, numbered from 1: methane, then every 40th of QM9."""
    first = read_sample().take(np.arange(12))
    return replace(first, index=np.arange(1, 13))


@pytest.fixture(scope="session")
def texts(raw: RawMolecules) -> list[str]:
    return [xyz_text(raw, row) for row in range(len(raw.index))]


@pytest.fixture
def put_raw(tmp_path: Path, texts: list[str]) -> Callable[..., Path]:
    """Puts the raw files of SmallQM9 in place and returns its root."""

    def put(archive: Sequence[str] = texts, excluded: Sequence[int] = (3, 7)) -> Path:
        folder = tmp_path / "root" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        write_archive(folder / SmallQM9.archive.name, archive)
        rows = [f"{i:8d}   CC   CC   CC   1.5" for i in excluded]
        header = ["", "List of doubtful molecules among 12", "=====", "#  Index  SMILES", "====="]
        lines = "\n".join([*header, *rows, "====="])
        (folder / SmallQM9.uncharacterized.name).write_text(lines)
        return tmp_path / "root"

    return put


@pytest.fixture(scope="session")
def small_qm9() -> type[QM9]:
    return SmallQM9


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local servers are reached directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
