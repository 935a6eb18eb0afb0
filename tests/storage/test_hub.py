"""`hf://` against a stand-in for the parts of the Hugging Face Hub that its library asks for.

In a process of its own, since that library reads its endpoint when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from servers import contents, is_whole, some_bytes

COMMIT = "a" * 40
LARGE = some_bytes(9_000_000, 1)
MODEL = {"config.json": b"{}", "sub/weights.bin": LARGE}
PROGRAM = """
import sys
from pathlib import Path
from ray_serve_cai.storage.mirror import mirror
mirror(sys.argv[1], Path(sys.argv[2]))
"""


def _git(data: bytes) -> str:
    sums = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    sums.update(data)
    return sums.hexdigest()


def _entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _git(data)}
    if name.endswith(".bin"):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 134}
    return entry


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spoilt = False

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path:
            self._file(MODEL[path.split("/resolve/")[1].split("/", 1)[1]])
        elif "/tree/" in path:
            folder = path.split("/tree/")[1].partition("/")[2]
            entries = [_entry(name, data) for name, data in MODEL.items()]
            self._json([each for each in entries if str(each["path"]).startswith(folder)])
        elif path.startswith("/api/models/me/model"):
            self._json({"id": "me/model", "sha": COMMIT, "siblings": []})
        else:
            self._send(404, b"{}")

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        wanted = [name for name in MODEL if name in unquote(sent)]
        self._json([_entry(name, MODEL[name]) for name in wanted])

    do_HEAD = do_GET

    def _file(self, data: bytes) -> None:
        if type(self).spoilt:
            data = data[:-1] + b"?"
        span = self.headers.get("Range")
        if not span:
            self._send(200, data, ETag=f'"{_git(data)}"', **{"X-Repo-Commit": COMMIT})
            return
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        self._send(206, part, **{"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _json(self, data: object) -> None:
        self._send(200, json.dumps(data).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    kind = type("Hub", (_Hub,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


def run(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, url, str(folder)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_model(tmp_path: Path, revision: str) -> None:
    done = run(f"hf://me/model{revision}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == MODEL
    assert is_whole(tmp_path)


def test_spoilt_file(hub: type[_Hub], tmp_path: Path) -> None:
    hub.spoilt = True
    done = run("hf://me/model", tmp_path)
    assert done.returncode
    assert "its sha256 is" in done.stderr or "its git is" in done.stderr
    assert contents(tmp_path) == {}
