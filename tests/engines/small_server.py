"""An OpenAI-compatible server of one file, for tests of the `command` engine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, HOST, PORT, *MODES = sys.argv[1:]
BEGUN = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/ready":
            late = "slow" in MODES and time.monotonic() - BEGUN < 0.5
            self._answer({}, 503 if late else 200)
        elif self.path == "/metrics":
            text = 'app_running{x="1"} 2\napp_running{x="2"} 1\napp_waiting 4\n'
            self._send(text.encode(), 200)
        else:
            self._answer({"data": [{"id": NAME, "max_model_len": 77}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "embeds" in MODES and "completions" in self.path:
            self._answer({"error": {"message": "no such route"}}, 404)
        elif "broken" in MODES:
            self._answer({"error": {"message": "no memory"}}, 500)
        else:
            self._answer({"model": asked["model"], "secret": os.environ.get("MINE")})

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, data: object, status: int = 200) -> None:
        self._send(json.dumps(data).encode(), status)

    def _send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if "deaf" in MODES:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "dies" in MODES:
    sys.exit(3)
ThreadingHTTPServer((HOST, int(PORT)), Handler).serve_forever()
