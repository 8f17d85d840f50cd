"""A Hub on this machine, with the part of the real one's HTTP interface that huggingface_hub needs for a download."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", "refs%2Fpr%2F1", COMMIT)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass
class FakeHub:
    """The server's files, and the requests that it received."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # OWNER/REPO/PATH -> content
    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # OWNER/REPO -> status and headers
    cut_at: int | None = None  # number of bytes after which a download is cut off
    requests: list[str] = field(default_factory=list)  # "GET OWNER/REPO/PATH@REVISION"

    def point(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Make huggingface_hub in this process use this server and an empty cache."""
        huggingface_hub.close_session()
        for name in PROXIES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def _answer(self, method: str, url_path: str) -> tuple[int, dict[str, str], bytes]:
        repo_id, found, rest = url_path.lstrip("/").partition("/resolve/")
        if not found:  # once per process, huggingface_hub also requests a list of programs that may be running it
            return 404, {}, b""
        revision, _, path = rest.partition("/")
        self.requests.append(f"{method} {repo_id}/{path}@{revision}")
        if repo_id in self.answers:
            return (*self.answers[repo_id], b"")
        if not any(name.startswith(repo_id + "/") for name in self.files):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in REVISIONS:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        content = self.files.get(f"{repo_id}/{path}")
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, content


@contextmanager
def serving(**files: bytes) -> Iterator[FakeHub]:
    """Run a Hub on a free loopback port until the block ends."""
    hub = FakeHub(files=dict(files))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send()

        def do_GET(self) -> None:
            content = self._send()
            self.wfile.write(content[: hub.cut_at])

        def _send(self) -> bytes:
            status, headers, content = hub._answer(self.command, self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            return content

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        huggingface_hub.close_session()
