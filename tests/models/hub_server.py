"""A hub on this machine that serves one folder as one repository, as far as the hub's client asks for it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        hub = self.server.hub
        hub.asked.append(f"{self.command} {self.path}")
        if hub.refusal:
            self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]}, with_body)
        elif self.path.startswith(f"/api/models/{hub.repository}"):
            names = sorted(str(p.relative_to(hub.folder)) for p in hub.folder.rglob("*") if p.is_file())
            info = {"id": hub.repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, with_body)
        elif self.path.startswith(f"/{hub.repository}/resolve/"):
            path = hub.folder / self.path.split("/resolve/")[1].partition("/")[2]
            content = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._send(200, content, headers, with_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _send(self, status, content, headers, with_body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


class Hub:
    def __init__(self, repository: str, folder: Path):
        self.repository, self.folder = repository, folder
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self.address = ""


@contextmanager
def serve(repository, folder):
    hub = Hub(repository, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
