r"""Downloading, with servers taken for what they are.

The servers of the scientific data sets answer 403, or 202 with nothing, or a web page in place of
the file; or the connection breaks after half of it. So: look at every answer, resume, verify, try
the next mirror, and in the end say plainly what to do by hand.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of the answer
_CHUNK = 1 << 16  # bytes; what a broken connection may lose
_ATTEMPTS = 5  # at one mirror, as long as each brings us further


@dataclass(frozen=True)
class RemoteFile:
    r"""A file to be downloaded.

    Attributes:
        name: Its name.
        urls: Its mirrors.
        size: Its size in bytes, if known.
        md5: Its MD5 hash in hexadecimal, if known.
    """

    name: str
    urls: Sequence[str]
    size: int | None = None
    md5: str | None = None


class DownloadError(RuntimeError):
    """No mirror has the file; the message says what to do by hand."""


class _Unusable(Exception):
    """The server's answer is not the file."""


class _Unresumable(Exception):
    """The server does not continue where the partial file ends."""


def download(
    urls: str | Sequence[str],
    path: str | Path,
    size: int | None = None,
    md5: str | None = None,
    check: Callable[[Path], object] | None = None,
) -> Path:
    r"""Fetches a file from the first mirror that has it.

    The file arrives as ``path`` with the ending ``.part`` and takes its name when it has been
    verified. If its size or hash is given, an interrupted download is resumed. One process at a
    time may download a file.

    Args:
        urls: Address of the file, or of its mirrors, tried in turn.
        path: Where to put it.
        size: Its size in bytes, if known.
        md5: Its MD5 hash in hexadecimal, if known.
        check: Looks at the content and raises ``ValueError`` if it is not what it should be.

    Returns:
        ``path``.

    Raises:
        DownloadError: If no mirror has the file; gives the reason for each, and how to fetch the
            file by hand.
    """
    urls = [urls] if isinstance(urls, str) else list(urls)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if size is None and md5 is None:  # nothing would tell whether two halves belong together
        part.unlink(missing_ok=True)
    reasons = []
    for url in urls:
        try:
            _fetch_verified(url, part, size, md5, check)
        except (_Unusable, requests.RequestException, ValueError) as error:
            reasons.append(f"  {url}\n    {_reason(error)}")
        else:
            os.replace(part, path)
            return path
    raise DownloadError(
        f"could not download '{path.name}':\n"
        + "\n".join(reasons)
        + f"\n{by_hand(urls, path, size, md5)}"
    )


def verify(path: Path, size: int | None = None, md5: str | None = None) -> None:
    r"""Compares a file with what is known of it.

    Args:
        path: The file.
        size: Its size in bytes.
        md5: Its MD5 hash in hexadecimal.

    Raises:
        ValueError: If one of them differs.
    """
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        raise ValueError(f"'{path}' must have {size} bytes (got {actual_size})")
    if md5 is None:
        return
    with path.open("rb") as file:
        actual_md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    if actual_md5.hexdigest() != md5:
        raise ValueError(f"'{path}' must have the MD5 hash {md5} (got {actual_md5.hexdigest()})")


def by_hand(
    urls: Iterable[str], path: Path, size: int | None = None, md5: str | None = None
) -> str:
    """Tells the user how to put the file there, for error messages."""
    known = [f"{size} bytes"] if size is not None else []
    known += [f"MD5 {md5}"] if md5 is not None else []
    return (
        f"Fetch it by hand, for example with a browser, from {' or '.join(urls)} and save it as "
        f"'{path.absolute()}'" + (f" ({', '.join(known)})" if known else "")
    )


def _fetch_verified(
    url: str,
    part: Path,
    size: int | None,
    md5: str | None,
    check: Callable[[Path], object] | None,
) -> None:
    """Leaves a complete and correct ``part``, or raises; keeps a ``part`` that can be resumed."""
    resumed = _length(part) > 0
    try:
        _fetch_resuming(url, part, size)
        verify(part, size, md5)
        if check is not None:
            check(part)
    except (ValueError, _Unresumable) as error:
        if isinstance(error, requests.RequestException):  # some of them are ValueErrors too
            raise
        part.unlink(missing_ok=True)
        if not resumed:
            raise _Unusable(str(error)) from error
        # The beginning that we had may have been the wrong part of it.
        _fetch_verified(url, part, size, md5, check)


def _fetch_resuming(url: str, part: Path, size: int | None) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        before = _length(part)
        if before == size:
            return
        try:
            _fetch(url, part, before, size)
            return
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if attempt == _ATTEMPTS or _length(part) <= before:
                raise


def _fetch(url: str, part: Path, offset: int, size: int | None) -> None:
    """Appends to ``part`` what lies beyond ``offset``, or starts anew if the server does."""
    # A compressed transfer would make nonsense of offsets and lengths.
    headers = {"Accept-Encoding": "identity"}
    if offset > 0:
        headers["Range"] = f"bytes={offset}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        offset = _accepted_offset(response, url, offset)
        chunks = response.iter_content(_CHUNK)
        first = next(chunks, b"")
        if offset == 0:
            _check_beginning(first, response)
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else size
        print(f"Downloading {url} to {part}", file=sys.stderr)
        with (
            part.open("ab" if offset else "wb") as file,
            tqdm(total=total, initial=offset, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for chunk in chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _length(part) < total:
        raise requests.ConnectionError(f"ended after {_length(part)} of {total} bytes")


def _accepted_offset(response: requests.Response, url: str, offset: int) -> int:
    """Where the body begins in the file; raises if the body is not the file."""
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        raise _Unusable(f"leads to the unencrypted address {response.url}")
    if response.status_code == 200:
        return 0
    if response.status_code == 206 and offset > 0:
        if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return offset
        raise _Unresumable("sent another part of the file than asked for")
    if response.status_code == 416 and offset > 0:
        raise _Unresumable("the file is shorter than what was downloaded before")
    if response.status_code == 202:
        raise _Unusable("answered 202: the request is accepted, but the file not (yet) sent")
    raise _Unusable(f"answered {response.status_code} {response.reason}".rstrip())


def _check_beginning(first: bytes, response: requests.Response) -> None:
    if not first:
        raise _Unusable("sent an empty file")
    start = first[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise _Unusable(f"sent a web page in place of the file (from {response.url})")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    text = str(error) or "no reason given"
    return text if isinstance(error, _Unusable) else f"{type(error).__name__}: {text}"
