"""A local server that misbehaves as those of the data sets do."""

import hashlib
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from pyg_schnet.datasets.download import _accepted_offset, download

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SIZE = len(CONTENT)
MD5 = hashlib.md5(CONTENT).hexdigest()
HTML = b"\n<!DOCTYPE html><html><body>Checking your browser</body></html>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str | None]] = []  # noqa: RUF012 - shared by all requests on purpose

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def do_GET(self) -> None:
        behaviour = self.path.strip("/")
        asked = self.headers.get("Range")
        first = not any(path == self.path for path, _ in self.requests)
        self.requests.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if behaviour == "good":
            self.send(206 if asked else 200, CONTENT[start:], start if asked else None)
        elif behaviour == "ignores-range":
            self.send(200, CONTENT)
        elif behaviour == "wrong-range":
            self.send(206 if asked else 200, CONTENT[: SIZE - start], 0 if asked else None)
        elif behaviour == "unsatisfiable":
            self.send(416 if asked else 200, b"" if asked else CONTENT)
        elif behaviour in ("drops", "always-drops"):
            stop = SIZE if behaviour == "drops" and not first else start + 100_000
            self.send(
                206 if asked else 200, CONTENT[start:], start if asked else None, stop - start
            )
        elif behaviour == "drops-then-wrong-range":
            if first:
                self.send(200, CONTENT, sent=100_000)
            else:
                self.send(206, CONTENT[: SIZE - start], 0)
        elif behaviour == "says-no-length":
            stop = SIZE if asked else 100_000
            self.send(206 if asked else 200, CONTENT[start:stop], start if asked else None, SIZE)
        elif behaviour == "drops-at-once":
            self.send(200, CONTENT, sent=0)
        elif behaviour == "stalls":
            self.send(200, CONTENT, sent=100_000)
            self.wfile.flush()
            time.sleep(1.0)
        elif behaviour == "truncated":
            self.send(200, CONTENT[:1000])
        elif behaviour == "wrong":
            self.send(200, b"x" * SIZE)
        elif behaviour == "html":
            self.send(200, HTML)
        elif behaviour == "redirect":
            self.send(302, b"", location="/good")
        elif behaviour == "empty":
            self.send(200, b"")
        else:
            self.send(int(behaviour), b"" if behaviour == "202" else HTML)

    def send(
        self,
        status: int,
        body: bytes,
        start: int | None = None,
        sent: int | None = None,
        location: str | None = None,
    ) -> None:
        self.send_response(status)
        if self.path != "/says-no-length":
            self.send_header("Content-Length", str(len(body)))
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{SIZE}")
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def forget_requests() -> None:
    Handler.requests.clear()


def paths() -> list[str]:
    return [path for path, _ in Handler.requests]


@pytest.mark.parametrize(
    "behaviour", ["good", "redirect", "drops", "ignores-range", "unsatisfiable", "wrong-range"]
)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("before", [b"", CONTENT[:1000], b"y" * 1000, CONTENT + b"more"])
def test_file_arrives(
    server: str, tmp_path: Path, behaviour: str, known: bool, before: bytes
) -> None:
    """Whatever is left over from an earlier attempt."""
    path = tmp_path / "folder" / "file"
    if before:
        path.parent.mkdir()
        path.with_name("file.part").write_bytes(before)
    size, md5 = (SIZE, MD5) if known else (None, None)
    assert download(f"{server}/{behaviour}", path, size, md5) == path
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_resumes(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download(f"{server}/good", tmp_path / "file", SIZE, MD5)
    assert Handler.requests == [("/good", "bytes=1000-")]


def test_resumes_after_a_broken_connection(server: str, tmp_path: Path) -> None:
    download(f"{server}/drops", tmp_path / "file", SIZE, MD5)
    (_, first), (_, second) = Handler.requests
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 100_000


def test_notices_an_early_end_by_the_known_size(server: str, tmp_path: Path) -> None:
    download(f"{server}/says-no-length", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(Handler.requests) == 2


def test_starts_again_where_the_server_does(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download(f"{server}/ignores-range", tmp_path / "file", SIZE, MD5)
    assert Handler.requests == [("/ignores-range", "bytes=1000-")]


def test_does_not_join_what_does_not_fit(server: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="sent another part of the file than asked for"):
        download(f"{server}/drops-then-wrong-range", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_complete_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    download("http://127.0.0.1:9/", tmp_path / "file", SIZE, MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("403", "answered 403 Forbidden"),
        ("202", "answered 202: the request is accepted"),
        ("404", "answered 404 Not Found"),
        ("503", "answered 503"),
        ("html", "sent a web page in place of the file"),
        ("empty", "sent an empty file"),
        ("truncated", f"must have {SIZE} bytes (got 1000)"),
        ("wrong", f"must have the MD5 hash {MD5}"),
        ("drops-at-once", "ConnectionError"),
    ],
)
def test_next_mirror(server: str, tmp_path: Path, behaviour: str, reason: str) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError, match="could not download 'file'") as caught:
        download([f"{server}/{behaviour}", f"{server}/404"], path, SIZE, MD5)
    message = str(caught.value)
    assert reason in message.replace("ChunkedEncodingError", "ConnectionError")
    for needed in (f"{server}/{behaviour}", f"{server}/404", str(path), MD5, f"{SIZE} bytes"):
        assert needed in message
    assert not path.exists()
    download([f"{server}/{behaviour}", f"{server}/good"], path, SIZE, MD5)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["html", "403", "202"])
def test_partial_file_survives_a_refusal(server: str, tmp_path: Path, behaviour: str) -> None:
    part = tmp_path / "file.part"
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(RuntimeError):
        download(f"{server}/{behaviour}", tmp_path / "file", SIZE, MD5)
    assert part.read_bytes() == CONTENT[:1000]


def test_gives_up_on_a_mirror_that_always_drops(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/always-drops", f"{server}/404"]
    with pytest.raises(RuntimeError):
        download(mirrors, tmp_path / "file", 10 * SIZE)
    assert 1 < paths().count("/always-drops") < 10
    assert paths()[-1] == "/404"


def test_content_is_checked(server: str, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        if path.read_bytes() == CONTENT:
            raise ValueError("not what I want")

    with pytest.raises(RuntimeError, match="not what I want"):
        download(f"{server}/good", tmp_path / "file", SIZE, MD5, check)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_server(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)127\.0\.0\.1:9/.*ConnectionError.*by hand"):
        download("http://127.0.0.1:9/file", tmp_path / "file")


def test_server_that_stalls(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyg_schnet.datasets.download._TIMEOUT", (5.0, 0.1))
    download([f"{server}/stalls", f"{server}/good"], tmp_path / "file", SIZE, MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert paths()[-1] == "/good"


def test_unknown_certificates_are_refused(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-keyout", key, "-out", certificate, "-days", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as https:
        https.socket = context.wrap_socket(https.socket, server_side=True)
        thread = threading.Thread(target=https.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(RuntimeError, match="SSLError"):
                download(f"https://127.0.0.1:{https.server_port}/good", tmp_path / "file")
        finally:
            https.shutdown()
            thread.join()
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("final", "accepted"), [("https://b.test", True), ("http://b.test", False)]
)
def test_encryption_is_not_given_up(final: str, accepted: bool) -> None:
    response = requests.Response()
    response.status_code, response.url = 200, final
    if accepted:
        assert _accepted_offset(response, "https://a.test", 0) == 0
    else:
        with pytest.raises(Exception, match="leads to the unencrypted address http://b"):
            _accepted_offset(response, "https://a.test", 0)
