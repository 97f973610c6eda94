r"""Single files out of archives."""

import lzma
import os
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO, cast

from tqdm import tqdm

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


def extract(archive: Path, targets: Collection[Path]) -> None:
    r"""Copies files out of a tar or zip archive, each entirely or not at all.

    Files are found by their name alone, in whatever folder of the archive: a path in it can lead
    nowhere but to the target. Links are not followed, nothing else is unpacked.

    Args:
        archive: Archive, with any compression that Python knows.
        targets: Where to put the files, which have these names in the archive; missing folders
            are made.

    Raises:
        ValueError: If the archive is damaged or lacks one of the files.
    """
    missing = {path.name: path for path in targets}
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        for name, content in members(archive, missing):
            _write(content, missing.pop(name))
            if not missing:
                return
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is full, or read-only: that is not the fault of the archive
        raise ValueError(f"'{archive}' is damaged or no archive ({error})") from error
    raise ValueError(f"'{archive}' has no file {', '.join(map(repr, sorted(missing)))}")


def check_archive(path: Path) -> None:
    """Raises ``ValueError`` if this is no archive; damage inside shows when it is unpacked."""
    if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise ValueError(f"'{path}' is no zip or tar archive")


def _zip_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename).name
            if name in wanted and not member.is_dir():
                with archive.open(member) as content:
                    yield name, content


def _tar_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Reads the archive as a stream: going back in a compressed one means starting again."""
    with (
        path.open("rb") as file,
        tqdm.wrapattr(
            file, "read", total=path.stat().st_size, desc=f"Unpacking {path.name}", disable=None
        ) as counted,
        tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|*") as archive,
    ):
        for member in archive:
            name = PurePosixPath(member.name).name
            content = archive.extractfile(member) if name in wanted and member.isfile() else None
            if content is not None:
                yield name, content


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            copyfileobj(content, file, 1 << 20)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
