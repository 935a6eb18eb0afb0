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


class _Handler(BaseHTTPRequestHandler):
    platform: Platform

    def do_GET(self) -> None:
        if self._allowed() and (found := _LIST.fullmatch(self.path)):
            self.platform.calls["list"] += 1
            self.platform.stall()
            knobs = self.platform.knobs
            if knobs.broken_lists > 0:
                knobs.broken_lists -= 1
                self._say(500, knobs.broken_answer)
            else:
                self._answer(200, self.platform.listing(found[1]))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._allowed() and self.path == DASHBOARDS:
            self.platform.calls["launch"] += 1
            answer = self.platform.launch(body)
            if self.platform.knobs.lost_posts > 0:
                self.platform.knobs.lost_posts -= 1
                self.close_connection = True
                return
            self._answer(201 if "id" in answer else 500, answer)

    def do_PUT(self) -> None:
        if self._allowed() and (found := _STOP.fullmatch(self.path)):
            self.platform.calls["stop"] += 1
            if bad := self.platform.knobs.bad_stops:
                self._answer(bad.pop(0), {})
                return
            self._answer(204 if self.platform.stop(found[1]) else 404, {})

    def _allowed(self) -> bool:
        scheme, _, text = self.headers.get("Authorization", "").partition(" ")
        user = base64.b64decode(text).decode().partition(":")[0] if scheme == "Basic" else ""
        if user == self.platform.project.api_key:
            return True
        self._answer(401, {"error": "Unauthorized"})
        return False

    def _answer(self, status: int, data: Any) -> None:
        self._say(status, b"" if status == 204 else json.dumps(data).encode())

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The tests look at `Platform.calls`."""
