"""Damaged .npz files fail in one way, whatever NumPy and zipfile make of them."""

import zipfile

import numpy as np
import pytest

from pyg_schnet.commands.structures import Failures, read_structures
from pyg_schnet.datasets import MoleculeDataset
from pyg_schnet.datasets.npz import open_npz
from pyg_schnet.storage import CorruptFileError


def write(path) -> bytearray:
    np.savez(path, z=np.array([8, 1, 1]), R=np.zeros((2, 3, 3)))
    return bytearray(path.read_bytes())


def flag_encrypted(content: bytearray) -> None:
    content[content.rindex(b"PK\x01\x02") + 8] |= 1


def unknown_compression(content: bytearray) -> None:
    content[content.rindex(b"PK\x01\x02") + 10] = 77


def backwards(content: bytearray) -> None:
    """The central directory lies before the file: an OSError of a seek."""
    end = content.rindex(b"PK\x05\x06")
    content[end + 16 : end + 20] = b"\xff\xff\xff\x7f"


def no_header(content: bytearray) -> None:
    start = content.index(b"\x93NUMPY", content.index(b"R.npy"))
    content[start : start + 6] = b"nothin"


def cut(content: bytearray) -> None:
    del content[50:200]


DAMAGE = [flag_encrypted, unknown_compression, backwards, no_header, cut]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_all_kinds(damage, tmp_path):
    path = tmp_path / "some.npz"
    content = write(path)
    damage(content)
    path.write_bytes(content)

    def read_all():
        with open_npz(path) as arrays:
            return dict(arrays)

    for read in (
        read_all,
        lambda: MoleculeDataset.from_file(path),
        lambda: read_structures(path, Failures()),
    ):
        with pytest.raises(CorruptFileError, match=r"^'[^']*some.npz' is (damaged|no npz)"):
            read()


def test_a_shape_larger_than_the_memory(tmp_path):
    path = tmp_path / "some.npz"
    write(path)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("R.npy", b"\x93NUMPY\x01\x00" + b"\x76\x00" + header)
    with open_npz(path) as arrays, pytest.raises(CorruptFileError, match="'R'"):
        arrays["R"]


def test_sound_ones_are_read(tmp_path):
    write(tmp_path / "some.npz")
    with open_npz(tmp_path / "some.npz") as arrays:
        assert sorted(arrays) == ["R", "z"]
        assert len(arrays) == 2
        assert "E" not in arrays
        assert arrays["z"].tolist() == [8, 1, 1]
        with pytest.raises(KeyError):
            arrays["E"]
