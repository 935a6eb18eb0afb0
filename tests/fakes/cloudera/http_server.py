"""The part of the platform's HTTP API v1 that the in-session library uses."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakes.cloudera.platform import Platform

DASHBOARDS = "/api/v1/projects/ann/demo/dashboards"
_LIST = re.compile(r"/api/v1/engines/(\w+)/workers")
_STOP = re.compile(DASHBOARDS + r"/(\w+)/stop")


class ApiServer:
    """Serves `platform` at `domain`, a free port of `host`."""

    def __init__(self, host: str, platform: Platform) -> None:
        handler = type("Handler", (_Handler,), {"platform": platform})
        self._server = ThreadingHTTPServer((host, 0), handler)
        self._server.daemon_threads = True
        self.domain = f"{host}:{self._server.server_address[1]}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.02,), name="api", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(platform: Platform, method: str, path: str, sent: bytes) -> tuple[int, bytes] | None:
    """Status and body of a call by somebody who may make it; None ends the connection."""
    if method == "GET" and (found := _LIST.fullmatch(path)):
        return _list(platform, found[1])
    if method == "POST" and path == DASHBOARDS:
        return _launch(platform, json.loads(sent))
    if method == "PUT" and (found := _STOP.fullmatch(path)):
        return _stop(platform, found[1])
    return 404, b"{}"


def _list(platform: Platform, engine: str) -> tuple[int, bytes]:
    platform.calls["list"] += 1
    platform.stall()
    knobs = platform.knobs
    if knobs.broken_lists > 0:
        knobs.broken_lists -= 1
        return 500, knobs.broken_answer
    return 200, json.dumps(platform.listing(engine)).encode()


def _launch(platform: Platform, body: dict[str, Any]) -> tuple[int, bytes] | None:
    platform.calls["launch"] += 1
    made = platform.launch(body)
    if platform.knobs.lost_posts > 0:
        platform.knobs.lost_posts -= 1
        return None
    return 201 if "id" in made else 500, json.dumps(made).encode()


def _stop(platform: Platform, engine: str) -> tuple[int, bytes]:
    platform.calls["stop"] += 1
    if bad := platform.knobs.bad_stops:
        return bad.pop(0), b"{}"
    return (204, b"") if platform.stop(engine) else (404, b"{}")


class _Handler(BaseHTTPRequestHandler):
    platform: Platform

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._allowed():
            self._say(401, b'{"error": "Unauthorized"}')
        elif (said := answer(self.platform, self.command, self.path, sent)) is None:
            self.close_connection = True
        else:
            self._say(*said)

    do_POST = do_PUT = do_GET

    def _allowed(self) -> bool:
        scheme, _, text = self.headers.get("Authorization", "").partition(" ")
        user = base64.b64decode(text).decode().partition(":")[0] if scheme == "Basic" else ""
        return user == self.platform.project.api_key

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The tests look at `Platform.calls`."""
