"""The front door with the real HAProxy, over real sockets, before stand-ins of what is behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from doors import HOST, Door, answer, begin_stream, chunk, make_state, stand_in
from support import runs, until

from ray_serve_cai.cluster.ports import is_taken

NAME = "doored"
TOKEN = "ray-token-of-the-cluster"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "clusters" / NAME


@pytest.fixture
def door(folder: Path) -> Iterator[Door]:
    with Door(folder) as made:
        made.wait_for_page()
        yield made


def echo(handler: BaseHTTPRequestHandler) -> None:
    """Answer with the path and the headers that arrived."""
    told = {"path": handler.path, "headers": {k.lower(): v for k, v in handler.headers.items()}}
    answer(handler, json.dumps(told).encode(), Content_Type="application/json")


def leads_to(door: Door, folder: Path, port: int, **spec: Any) -> None:
    make_state(folder, port, spec)
    door.wait_for("/health")


class TestBeforeTheCluster:
    def test_page_is_there_at_once(self, folder: Path) -> None:
        began = time.monotonic()
        with Door(folder) as door:
            until(lambda: door.get("/"), 30, "any answer")
            took = time.monotonic() - began
            replies = []

            def last() -> str:
                reply = door.get("/")
                assert reply is not None
                replies.append(reply)
                return reply.text

            until(lambda: 'id="models"' in last(), 15, "the page itself")
            assert {reply.status_code for reply in replies} == {200}
            assert "starting" in replies[0].text
            assert door.wait_for("/status.json").json()["state"] == "starting"
        # Alone on a machine 0.3 s, and ten times that and more beside other tests. What counts is
        # that nothing of the cluster is waited for.
        assert took < 20

    def test_api_says_when_to_come_again(self, door: Door) -> None:
        for path in ("/v1/chat/completions", "/v1/models", "/v1", "/health"):
            reply = door.get(path)
            assert reply is not None
            assert (reply.status_code, int(reply.headers["Retry-After"])) == (503, 2)
            error = reply.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert "gateway" in error["message"]

    def test_no_dashboard(self, door: Door) -> None:
        reply = door.wait_for("/dashboard/", 404)
        assert "ray.dashboard" in reply.text

    def test_unknown_path(self, door: Door) -> None:
        door.wait_for("/workers", 404)


class TestRouting:
    def test_gateway(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as port:
            leads_to(door, folder, port)
            for path in ("/v1", "/v1/models?limit=1", "/health"):
                assert door.wait_for(path).json()["path"] == path
            assert 'id="models"' in door.wait_for("/").text

    def test_gateway_that_moves(self, door: Door, folder: Path) -> None:
        with stand_in(lambda h: answer(h, b"old")) as old, stand_in(echo) as new:
            leads_to(door, folder, old)
            assert door.wait_for("/v1/models").text == "old"
            make_state(folder, new)
            until(lambda: door.wait_for("/v1/models").text != "old", 10, "the new gateway")

    def test_gateway_that_goes(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as port:
            leads_to(door, folder, port)
        # Nobody listens there any more.
        assert "Retry-After" in door.wait_for("/v1/models", 503).headers
        (folder / "cluster.json").unlink()
        began = time.monotonic()
        until(lambda: quick(door), 10, "a refusal without trying")
        assert time.monotonic() - began < 10
        assert door.wait_for("/status.json").json()["state"] == "stopped"

    def test_damaged_record(self, door: Door, folder: Path) -> None:
        make_state(folder)
        (folder / "cluster.json").write_text("{")
        until(
            lambda: door.wait_for("/status.json").json()["state"] == "failed", 10, "state failed"
        )
        door.wait_for("/")
        door.wait_for("/v1/models", 503)

    def test_record_that_cannot_be_read_for_a_while(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as old, stand_in(lambda h: answer(h, b"new")) as new:
            leads_to(door, folder, old)
            whole = (folder / "cluster.json").read_text()
            (folder / "cluster.json").write_text("{")
            until(lambda: door.wait_for("/status.json").json()["state"] == "failed", 10, "noticed")
            assert sent(door, "/v1/models")
            (folder / "cluster.json").write_text(whole.replace(str(old), str(new)))
            until(lambda: door.wait_for("/v1/models").text == "new", 10, "the new gateway")
            (folder / "nodes" / "head.json").write_text("{")
            assert door.wait_for("/v1/models").text == "new"

    def test_platforms_credentials_stay_outside(self, door: Door, folder: Path) -> None:
        """Cloudera's login is the only one that reads this header when the gateway has no key."""
        with stand_in(echo) as port:
            leads_to(door, folder, port)
            assert sent(door, "/v1/models").keys().isdisjoint({"authorization", "cookie"})

    def test_gateways_key_passes(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as port:
            leads_to(door, folder, port, gateway={"api_keys": ["k"]})
            until(lambda: "authorization" in sent(door, "/v1/models"), 10, "the header")
            assert "cookie" not in sent(door, "/v1/models")


def quick(door: Door) -> bool:
    began = time.monotonic()
    door.wait_for("/v1/models", 503)
    return time.monotonic() - began < 1


def sent(door: Door, path: str) -> dict[str, str]:
    headers = {"Authorization": "Bearer platform", "Cookie": "session=platform"}
    reply = door.get(path, headers=headers)
    assert reply is not None
    found: dict[str, str] = reply.json()["headers"]
    return found


class TestStreams:
    def test_not_held_back(self, door: Door, folder: Path) -> None:
        """The second piece leaves only after the first has arrived."""
        arrived = threading.Event()

        def two_pieces(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/health":
                return answer(handler, b"")
            begin_stream(handler)
            chunk(handler, "data: first\n\n")
            chunk(handler, "data: second\n\n" if arrived.wait(20) else "data: late\n\n")
            chunk(handler, "")
            return None

        with stand_in(two_pieces) as port:
            leads_to(door, folder, port)
            with httpx.stream("GET", f"{door.url}/v1/x", trust_env=False, timeout=30) as reply:
                assert reply.headers["X-Accel-Buffering"] == "no"
                pieces = reply.iter_text()
                assert next(pieces) == "data: first\n\n"
                arrived.set()
                assert next(pieces) == "data: second\n\n"

    def test_survives_a_change(self, door: Door, folder: Path) -> None:
        """A stream goes on from the old gateway when the record names another, or none."""
        go_on = threading.Event()

        def slow(handler: BaseHTTPRequestHandler) -> None:
            if handler.path != "/v1/x":
                return answer(handler, b"")
            begin_stream(handler)
            chunk(handler, "first")
            assert go_on.wait(30)
            chunk(handler, "last")
            chunk(handler, "")
            return None

        with stand_in(slow) as old, stand_in(lambda h: answer(h, b"new")) as new:
            leads_to(door, folder, old)
            with httpx.stream("GET", f"{door.url}/v1/x", trust_env=False, timeout=30) as reply:
                pieces = reply.iter_text()
                assert next(pieces) == "first"
                make_state(folder, new)
                until(lambda: door.wait_for("/v1/y").text == "new", 10, "the new gateway")
                (folder / "cluster.json").unlink()
                until(lambda: quick(door), 10, "no gateway")
                go_on.set()
                assert next(pieces) == "last"

    @pytest.mark.parametrize("begun", [False, True])
    def test_client_that_leaves(self, door: Door, folder: Path, begun: bool) -> None:
        """The gateway sees it, before the first piece as well."""
        asked, left = threading.Event(), threading.Event()

        def waiting(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/health":
                return answer(handler, b"")
            if begun:
                begin_stream(handler)
                chunk(handler, "first")
            asked.set()
            handler.connection.settimeout(20)
            try:
                if handler.connection.recv(1) == b"":
                    left.set()
            except ConnectionError:
                left.set()
            return None

        with stand_in(waiting) as port:
            leads_to(door, folder, port)
            client = socket.create_connection((HOST, door.port))
            client.sendall(b"GET /v1/x HTTP/1.1\r\nHost: door\r\n\r\n")
            assert asked.wait(10)
            if begun:
                file = client.makefile("rb")
                until(lambda: b"first" in file.readline(), 10, "the first piece")
                file.close()
            client.close()
            assert left.wait(10)

    def test_big_bodies(self, door: Door, folder: Path) -> None:
        body = os.urandom(2**20) * 40

        def digest(handler: BaseHTTPRequestHandler) -> None:
            data = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
            answer(handler, hashlib.sha256(data).hexdigest().encode())

        with stand_in(digest) as port:
            leads_to(door, folder, port)
            reply = httpx.post(f"{door.url}/v1/x", content=body, trust_env=False, timeout=60)
            assert reply.text == hashlib.sha256(body).hexdigest()


class TestDashboard:
    def state(self, folder: Path, port: int, spec: dict[str, Any] | None = None) -> None:
        state = make_state(folder, 0, spec)
        state.write_private(state.token_path, TOKEN)
        row = {"id": "head", "host": socket.gethostname(), "engine": "", "state": "running"}
        row |= {"pid": os.getpid(), "created": psutil.Process().create_time()}
        state.write(folder / "nodes" / "head.json", row | {"dashboard_port": port})

    def test_prefix_and_token(self, door: Door, folder: Path) -> None:
        def ray(handler: BaseHTTPRequestHandler) -> None:
            if handler.path != "/moved":
                return echo(handler)
            handler.send_response(302)
            handler.send_header("Location", "/there")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None

        with stand_in(ray) as port:
            self.state(folder, port)
            reply = door.wait_for("/dashboard/api/v0/nodes?limit=1").json()
            assert reply["path"] == "/api/v0/nodes?limit=1"
            headers = sent(door, "/dashboard/")
            assert headers["authorization"] == f"Bearer {TOKEN}"
            assert "cookie" not in headers
            for path, location in (("", "/dashboard/"), ("/moved", "/dashboard/there")):
                reply = door.get(f"/dashboard{path}")
                assert reply is not None
                assert (reply.status_code, reply.headers["Location"]) == (302, location)
            until(lambda: door.wait_for("/status.json").json()["dashboard"], 10, "a link to it")

    def test_websockets_pass(self, door: Door, folder: Path) -> None:
        def upgrade(handler: BaseHTTPRequestHandler) -> None:
            if handler.headers.get("Upgrade") != "websocket":
                return answer(handler, b"")
            handler.send_response(101)
            handler.send_header("Upgrade", "websocket")
            handler.send_header("Connection", "Upgrade")
            # What RFC 6455 makes of the key below; HAProxy checks it.
            handler.send_header("Sec-WebSocket-Accept", "HSmrc0sMlYUkAGmm5OPpG2HaGWk=")
            handler.end_headers()
            handler.wfile.write(handler.connection.recv(5).upper())
            handler.close_connection = True
            return None

        with stand_in(upgrade) as port, socket.socket() as client:
            self.state(folder, port)
            door.wait_for("/dashboard/")
            client.settimeout(10)
            client.connect((HOST, door.port))
            client.sendall(
                b"GET /dashboard/logs HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
                b"Sec-WebSocket-Version: 13\r\n\r\n"
            )
            file = client.makefile("rb")
            assert b"101" in file.readline()
            while file.readline().strip():
                pass
            client.sendall(b"hello")
            assert file.read(5) == b"HELLO"

    def test_read_only(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as port:
            self.state(folder, port)
            door.wait_for("/dashboard/")
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                reply = httpx.request(method, f"{door.url}/dashboard/api/jobs/", trust_env=False)
                assert (method, reply.status_code) == (method, 405)

    def test_token_is_nowhere(self, door: Door, folder: Path) -> None:
        with stand_in(lambda h: answer(h, b"")) as port:
            self.state(folder, port)
            door.wait_for("/dashboard/")
            texts = [door.wait_for(path).text for path in ("/", "/status.json")]
            for process in door.parts():
                texts += [*process.cmdline(), str(process.environ())]
            config = Path(door.part("haproxy").cmdline()[-1])
            assert stat_of(config.parent) == 0o700
            texts += [path.read_text() for path in config.parent.iterdir() if path.is_file()]
            assert not any(TOKEN in text for text in texts)

    def test_none_without_a_login(self, folder: Path) -> None:
        with stand_in(echo) as port:
            self.state(folder, port)
            with Door(folder, "--public") as door:
                door.wait_for_page()
                door.wait_for("/dashboard/", 404)
                data = door.wait_for("/status.json").json()
                assert data["dashboard"] is None

    def test_none_with_bypass_authentication(self, door: Door, folder: Path) -> None:
        provider = {"type": "cai-applications", "bypass_authentication": True}
        with stand_in(echo) as port:
            self.state(folder, port)
            door.wait_for("/dashboard/")
            self.state(folder, port, {"provider": provider, "gateway": {"api_keys": ["k"]}})
            door.wait_for("/dashboard/", 404)


def stat_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


class TestDeaths:
    def test_haproxy(self, door: Door, folder: Path) -> None:
        with stand_in(echo) as port:
            leads_to(door, folder, port)
            before = door.part("haproxy")
            before.kill()
            until(lambda: not runs(before), 5, "HAProxy is gone")
            assert door.wait_for("/v1/models").json()["path"] == "/v1/models"
            door.wait_for_page()

    def test_status_server(self, door: Door) -> None:
        door.part("status_page").kill()
        seen = []

        def back() -> bool:
            reply = door.get("/")
            assert reply is not None
            seen.append(reply.status_code)
            status = door.get("/status.json")
            return status is not None and status.status_code == 200 and len(seen) > 1

        until(back, 15, "the status server is back")
        assert set(seen) == {200}

    def test_killed(self, door: Door) -> None:
        parts = door.parts()
        assert len(parts) == 2
        assert door.process is not None
        door.process.kill()
        until(lambda: not any(map(runs, parts)), 5, "all are gone")
        assert not is_taken(HOST, door.port)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ended(self, door: Door, folder: Path, number: int) -> None:
        parts, own = door.parts(), Path(door.part("haproxy").cmdline()[-1]).parent
        assert door.process is not None
        began = time.monotonic()
        with stand_in(waits) as port:
            leads_to(door, folder, port)
            with socket.create_connection((HOST, door.port)) as client:
                client.sendall(b"GET /v1/x HTTP/1.1\r\nHost: door\r\n\r\n")
                door.process.send_signal(number)
                _, err = door.process.communicate(timeout=10)
        assert (door.process.returncode, err) == (128 + number, "")
        assert not any(map(runs, parts))
        assert not own.exists()
        assert time.monotonic() - began < 10

    def test_whoever_started_it_is_killed(self, folder: Path, tmp_path: Path) -> None:
        made = Door(folder)
        program = f"import subprocess; subprocess.run({made.command!r})"
        starter = subprocess.Popen([sys.executable, "-c", program])
        try:
            made.wait_for_page()
            family = psutil.Process(starter.pid).children(recursive=True)
            assert len(family) == 3
        finally:
            starter.kill()
            starter.wait()
        until(lambda: not any(map(runs, family)), 10, "all are gone")


def waits(handler: BaseHTTPRequestHandler) -> None:
    if handler.path == "/health":
        answer(handler, b"")
    else:
        handler.connection.settimeout(10)
        handler.connection.recv(1)


class TestPort:
    def test_taken(self, folder: Path) -> None:
        with socket.create_server((HOST, 0)) as editor:
            port = str(editor.getsockname()[1])
            done = run(folder, CDSW_APP_PORT=port, CDSW_READONLY_PORT="8100")
        assert done.returncode == 1
        assert done.stderr.startswith("CAI-DOOR-001")
        for word in (port, "CDSW_READONLY_PORT", "8100", "JupyterLab"):
            assert word in done.stderr

    def test_not_a_folder_of_a_cluster(self, tmp_path: Path) -> None:
        done = run(tmp_path / "No Cluster", CDSW_APP_PORT="1")
        assert (done.returncode, "CAI-CLUSTER-001" in done.stderr) == (2, True)

    def test_missing(self, folder: Path) -> None:
        done = run(folder)
        assert (done.returncode, "CAI-DOOR-003" in done.stderr) == (2, True)

    def test_no_haproxy(self, folder: Path) -> None:
        done = run(folder, CDSW_APP_PORT="1", RAY_SERVE_HAPROXY_BINARY_PATH="/nowhere")
        assert (done.returncode, "CAI-DOOR-002" in done.stderr) == (1, True)
        assert "Traceback" not in done.stderr

    def test_of_the_platform(self, folder: Path) -> None:
        made = Door(folder)
        made.command = made.command[:4]
        made.env["CDSW_APP_PORT"] = str(made.port)
        with made:
            made.wait_for("/")


def run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_serve_cai.serving.front_door", str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )
