"""The stand-in's REST API v2 and front proxy, on one port of this machine.

Requests for `<subdomain>.<domain>` and `<engine id>.<domain>` go to the workload's app port,
behind a login page. The rest is `/api/v2/…` with the platform's bodies, pages, refusals and, where
`Faults` say so, its troubles.
"""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fakes.cloudera.answers import RefusedError, Row
from fakes.cloudera.applications import Application, Applications, Knobs
from fakes.cloudera.http_server import answer
from fakes.cloudera.jobs import Jobs
from fakes.cloudera.platform import Platform
from fakes.cloudera.project import NUMBER, Project
from fakes.cloudera.routes import ROUTES
from fakes.cloudera.workload import Workload

# What the in-session library calls.
WORKERS = re.compile(r"/api/v1/(engines|projects)/")
LOGIN = b"<html><title>Cloudera login</title></html>"
NOT_FORWARDED = {"host", "connection", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What goes wrong with the next `times` calls that match; `after` it was done all the same.

    `status` 0 ends the connection without an answer. `body` takes the place of an error body.
    """

    method: str
    path: str
    status: int = 0
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    seconds: float = 0.0
    times: int = 1


@dataclass
class Call:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    proxied: bool


class Workbench:
    """The whole stand-in behind HTTP; `project` is set up to be of it."""

    def __init__(
        self,
        project: Project,
        *,
        certificate: Path | None = None,
        platform: Platform | None = None,
    ) -> None:
        """With a `platform`, which must be of this project, its workloads can launch workers."""
        self.project, self.platform = project, platform
        self.knobs = Knobs()
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        self.applications = Applications(project, self.knobs)
        self.jobs = Jobs(project, self.knobs)
        if platform is not None:
            platform.masters = self._workloads
        host = project.network.host if project.network else "127.0.0.1"
        workbench = self

        class Handler(_Handler):
            bench = workbench

        self._server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            project.scheme = "https"
        project.domain = f"{host}:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[Workbench]:
        """Answers inside the block; nothing that it started is left afterwards."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self.knobs.hurry.set()
            for one in self.applications():
                one.delete()
            for job in self.jobs.all:
                for run in job.runs:
                    run.workload.kill()
            for one in self.applications():
                one.gone.wait(30)

    def _workloads(self) -> list[Workload]:
        return [one.workload for one in self.applications() if one.workload is not None]

    def made(self, method: str, path: str) -> list[Call]:
        """The calls so far whose path matches the pattern."""
        return [c for c in self.calls if c.method == method and re.search(path, c.path)]

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def answer(self, call: Call) -> Row:
        """The body of a good answer; raises `RefusedError`."""
        path = call.path.replace(f"/api/v2/projects/{self.project.id}", "{p}")
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == call.method:
                return action(self, call, *match.groups())
        raise RefusedError(404 if "/projects/" in call.path else 501, "Not Found")


class _Handler(http.server.BaseHTTPRequestHandler):
    bench: Workbench
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        # A proxy gets the whole address.
        proxied = "://" in self.path
        url = urlsplit(self.path if proxied else f"http://{self.headers['Host']}{self.path}")
        label, _, rest = url.netloc.partition(".")
        if rest == self.bench.project.domain:
            self._forward(label, sent)
            return
        query = dict(parse_qsl(url.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, url.path, query, headers, None, proxied)
        self.bench.calls.append(call)
        self._api(call, sent)

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    def _api(self, call: Call, sent: bytes) -> None:
        fault = self.bench.fault(call.method, call.path)
        try:
            if fault is not None and not fault.after:
                self._fail(fault)
                return
            self._check_key(call)
            if self.bench.platform is not None and WORKERS.match(call.path):
                self._workers(self.bench.platform, call, sent)
                return
            call.body = _body(sent)
            data = self.bench.answer(call)
        except RefusedError as error:
            self._send(error.status, json.dumps(error.body()).encode())
            return
        if fault is not None:
            self._fail(fault)
            return
        self._send(200, json.dumps(data).encode())

    def _workers(self, platform: Platform, call: Call, sent: bytes) -> None:
        if (said := answer(platform, call.method, call.path, sent)) is None:
            self.close_connection = True
        else:
            self._send(*said)

    def _check_key(self, call: Call) -> None:
        kind, _, key = call.headers.get("authorization", "").partition(" ")
        if call.path.startswith("/api/v1/"):
            wanted = base64.b64encode(f"{self.bench.project.api_key}:".encode()).decode()
            if (kind, key) != ("Basic", wanted):
                raise RefusedError(401, "Unauthorized")
            return
        if not key:
            raise RefusedError(401, "missing authorization header")
        if key.startswith("eyJ") and key.count(".") == 2:
            raise RefusedError(500, "malformed apikey")
        if (kind, key) != ("Bearer", self.bench.project.apiv2_key):
            raise RefusedError(401, "invalid apikey")

    def _fail(self, fault: Fault) -> None:
        time.sleep(fault.seconds)
        if not fault.status:
            self.close_connection = True
            return
        body = fault.body
        if body is None:
            body = json.dumps(RefusedError(fault.status, "trouble").body()).encode()
        self._send(fault.status, body, fault.headers)

    def _forward(self, label: str, sent: bytes) -> None:
        found = self.bench.applications.at_host(label.removeprefix("public-"))
        if found is None or found.workload is None:
            self._send(404, b"no such host", {"Content-Type": "text/plain"})
        elif not self._may_enter(found):
            self._send(302, LOGIN, {"Location": f"{self.bench.project.url}/login"})
        else:
            self._relay(found, sent)

    def _may_enter(self, found: Application) -> bool:
        key = f"Bearer {self.bench.project.apiv2_key}"
        return bool(found.fields["bypass_authentication"]) or (
            self.headers.get("Authorization") == key
        )

    def _relay(self, found: Application, sent: bytes) -> None:
        assert found.workload is not None
        inner = http.client.HTTPConnection("127.0.0.1", timeout=30)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in NOT_FORWARDED}
        try:
            inner.sock = found.workload.connect()
            inner.request(self.command, self.path, sent, headers)
            answer = inner.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._send(502, b"the application does not answer", {"Content-Type": "text/plain"})
            return
        finally:
            inner.close()
        self._send(answer.status, body, {"Content-Type": answer.headers.get("Content-Type", "")})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The calls are kept instead."""


def _body(sent: bytes) -> Row:
    try:
        found = json.loads(sent or b"{}")
    except ValueError:
        raise RefusedError(400, "invalid JSON") from None
    if not isinstance(found, dict):
        raise RefusedError(400, "the body must be an object")
    return found


def environment(project: Project) -> dict[str, str]:
    """The variables that a program outside the pods needs to use the API."""
    names = {"CDSW_PROJECT_NUM": str(NUMBER), "CDSW_PROJECT_ID": project.id}
    keys = {"CDSW_APIV2_KEY": project.apiv2_key, "CDSW_API_KEY": project.api_key}
    return names | keys | {"CDSW_DOMAIN": project.domain, "CDSW_API_URL": f"{project.url}/api/v1"}
