import errno
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from pyg_schnet.datasets import archives
from pyg_schnet.datasets.archives import check_archive, extract

CONTENT = {"set/a.npz": b"a" * 10_000, "set/lists/b.csv": b"1\n2\n", "set/c.txt": b"not wanted"}


def write_tar(path: Path, mode: str = "w:gz", names: dict[str, bytes] = CONTENT) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, names: dict[str, bytes] = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w:", "zip"])
def test_wanted_files_only(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"
    path = write_zip(path) if mode == "zip" else write_tar(path, mode)
    targets = [tmp_path / "out" / "a.npz", tmp_path / "out" / "x" / "b.csv"]
    extract(path, targets)
    assert targets[0].read_bytes() == CONTENT["set/a.npz"]
    assert targets[1].read_bytes() == CONTENT["set/lists/b.csv"]
    assert len([file for file in (tmp_path / "out").rglob("*") if file.is_file()]) == 2


@pytest.mark.parametrize("name", ["../../a.npz", "/tmp/a.npz", "__MACOSX/../a.npz"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_paths_in_the_archive_lead_nowhere_else(tmp_path: Path, name: str, write) -> None:
    path = write(tmp_path / "archive", names={name: b"content"})
    extract(path, [tmp_path / "in" / "deep" / "a.npz"])
    assert (tmp_path / "in" / "deep" / "a.npz").read_bytes() == b"content"
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "a.npz",
        "archive",
    ]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("a.npz")
            member.type, member.linkname = kind, str(tmp_path / "secret")
            archive.addfile(member)
    with pytest.raises(ValueError, match=r"has no file 'a\.npz'"):
        extract(tmp_path / "archive", [tmp_path / "a.npz"])
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_missing_files_are_named(tmp_path: Path, write) -> None:
    path = write(tmp_path / "archive")
    with pytest.raises(ValueError, match=r"archive' has no file 'd\.npz', 'e\.npz'"):
        extract(path, [tmp_path / name for name in ("e.npz", "a.npz", "d.npz")])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w:"])
def test_damaged_archive(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "archive", mode)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 3], b"", b"<html>" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"archive' (is damaged or no archive|has no file)"):
            extract(path, [tmp_path / "a.npz"])
        assert [file.name for file in tmp_path.iterdir()] == ["archive"]


def test_damaged_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive")
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or no archive"):
        extract(path, [tmp_path / "a.npz"])
    assert [file.name for file in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_full_disk_is_no_damage(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should fetch a gigabyte again because of it."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write(tmp_path / "archive")
    monkeypatch.setattr(archives, "copyfileobj", fail)
    with pytest.raises(OSError, match="No space left"):
        extract(path, [tmp_path / "a.npz"])
    assert [file.name for file in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:", "zip"])
def test_archives_are_recognized(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"
    check_archive(write_zip(path) if mode == "zip" else write_tar(path, mode))
    path.write_bytes(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>' * 20)
    with pytest.raises(ValueError, match="is no zip or tar archive"):
        check_archive(path)
