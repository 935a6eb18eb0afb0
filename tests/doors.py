"""Front doors as processes, and state folders that lead them to stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
from support import children, runs, until

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState

HOST = "127.0.0.1"


class Door:
    """`python -m ray_serve_cai.serving.front_door`, for as long as the block."""

    def __init__(self, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> None:
        self.port = free_port(HOST)
        self.url = f"http://{HOST}:{self.port}"
        module = "ray_serve_cai.serving.front_door"
        self.command = [
            sys.executable,
            "-m",
            module,
            str(folder),
            "--port",
            str(self.port),
            *words,
        ]
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Door:
        self.process = subprocess.Popen(
            self.command, stderr=subprocess.PIPE, text=True, env=self.env
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        # Killed, it would leave its folder.
        self.process.terminate()
        self.process.communicate(timeout=30)

    def get(self, path: str, **options: Any) -> httpx.Response | None:
        """None while nobody listens."""
        try:
            return httpx.get(self.url + path, trust_env=False, timeout=10, **options)
        except httpx.TransportError:
            return None

    def wait_for(self, path: str, status: int = 200, seconds: float = 15) -> httpx.Response:
        def answer() -> httpx.Response | None:
            reply = self.get(path)
            return reply if reply is not None and reply.status_code == status else None

        found = until(answer, seconds, f"{path} with {status}")
        assert found is not None
        return found

    def wait_for_page(self) -> None:
        """Until the status server is there."""
        self.wait_for("/status.json")

    def part(self, word: str) -> psutil.Process:
        """`haproxy` or `status_page`."""
        found = [
            p
            for p in self.parts()
            if any(w.endswith((f"/{word}", f".{word}")) for w in p.cmdline())
        ]
        assert len(found) == 1, found
        return found[0]

    def parts(self) -> list[psutil.Process]:
        assert self.process is not None
        return [p for p in children(psutil.Process(self.process.pid)) if runs(p)]


Handle = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def stand_in(handle: Handle) -> Iterator[int]:
    """A real HTTP server in a thread; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            handle(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def answer(handler: BaseHTTPRequestHandler, body: bytes, **headers: str) -> None:
    """A whole answer with status 200."""
    handler.send_response(200)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def chunk(handler: BaseHTTPRequestHandler, text: str) -> None:
    data = text.encode()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    handler.wfile.flush()


def record_of(name: str, spec: Mapping[str, Any], **keys: Any) -> ClusterRecord:
    """A record as `up` writes it, ready unless told otherwise."""
    raw = {"kind": "Cluster", "name": name, **spec}
    common: dict[str, Any] = {
        "name": name,
        "provider": raw.get("provider", {}).get("type", "local"),
        "state": "ready",
        "revision": 1,
        "raw": raw,
        "spec_path": f"/specs/{name}.yaml",
        "fixed": {},
        "created": time.time(),
    }
    return ClusterRecord(**common | keys)


def make_state(
    folder: Path, gateway: int = 0, spec: Mapping[str, Any] | None = None
) -> ClusterState:
    """A cluster's state folder whose gateway is at that port; none for 0."""
    state = ClusterState.at(folder)
    state.create()
    url = f"http://{HOST}:{gateway}" if gateway else ""
    state.save(record_of(folder.name, spec or {}, gateway_url=url, gateway_port=gateway))
    return state
