"""What the status page says, from state folders as `up`, agents, deployer and gateway write them,
and the page itself in a browser behind the real front door."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest
from doors import HOST, Door, answer, begin_stream, chunk, make_state, stand_in
from support import until

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.plan.nodes import SILENT_SECONDS
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.snapshot import STALE_SECONDS, snapshot
from ray_serve_cai.serving.status_files import (
    ReplicaWriter,
    read_replicas,
    write_status,
)

NAME = "shown"
NASTY = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
KEY = "key-of-a-client"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "clusters" / NAME


def agent(state: ClusterState, node: str, /, **keys: Any) -> Path:
    """The row of a node whose agent is this process, unless told otherwise."""
    row = {
        "id": node,
        "role": "head" if node == "head" else "worker",
        "group": node.rpartition("-")[0] or "head",
        "cpu": 2,
        "gpu": 1,
        "memory": 2**30,
        "state": "running",
        "ip": "10.0.0.7",
        "host": socket.gethostname(),
        "engine": "",
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
    }
    path = state.folder / "nodes" / f"{node}.json"
    state.write(path, row | keys)
    return path


def model(state: ClusterState, name: str, replicas: int = 1, **keys: Any) -> None:
    record: dict[str, Any] = {
        "model": name,
        "revision": 1,
        "state": "active",
        "raw": {},
        "spec_path": "/specs/model.yaml",
        "project": "/specs",
        "digest": "d",
        "engine": "echo",
        "transport": "grpc",
        "replicas": replicas,
        "created": 1.0,
    }
    Revisions(state).save(RevisionRecord(**record | keys))


def gateway_says(state: ClusterState, *rows: ReplicaRow, age: float = 0.0) -> None:
    (state.folder / "gateway").mkdir(exist_ok=True)
    path = state.folder / "gateway" / "replicas.json"
    state.write(path, {"time": time.time() - age, "replicas": [asdict(row) for row in rows]})


def replica(name: str, phase: str = "ready", **keys: Any) -> ReplicaRow:
    return ReplicaRow(f"r-{phase}", name, 1, phase, "head", **keys)


def words(folder: Path) -> dict[str, str]:
    return {node["id"]: node["state"] for node in snapshot(folder, NAME)["nodes"]}


class TestSnapshot:
    def test_before_and_after(self, folder: Path) -> None:
        assert snapshot(folder, NAME)["state"] == "starting"
        folder.mkdir(parents=True)
        assert snapshot(folder, NAME)["state"] == "stopped"
        write_status(folder, "scheduling", "waiting for gpu-0")
        data = snapshot(folder, NAME)
        assert (data["schema"], data["name"]) == ("cai/v1", NAME)
        assert [data[key] for key in ("state", "phase", "message")] == [
            "starting",
            "scheduling",
            "waiting for gpu-0",
        ]
        assert data["message_age"] < 10
        write_status(folder, "failed", "quota")
        assert snapshot(folder, NAME)["state"] == "failed"

    def test_folder_that_cannot_be_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shared one may answer so for a while."""

        def stale(self: ClusterState) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(ClusterState, "record", stale)
        data = snapshot(folder, NAME)
        assert data["state"] == "failed"
        assert "Stale file handle" in data["message"]

    def test_nodes(self, folder: Path) -> None:
        groups = [{"name": "gpu", "count": 3}]
        state = make_state(folder, spec={"workers": groups})
        agent(state, "head")
        agent(state, "gpu-0", state="starting")
        agent(state, "gpu-1", pid=2**22 + 1)
        assert words(folder) == {
            "head": "ready",
            "gpu-0": "starting",
            "gpu-1": "lost",
            "gpu-2": "pending",
        }
        record = state.existing_record()
        record.scaled = {"gpu": 2}
        state.save(record)
        assert "gpu-2" not in words(folder)
        agent(state, "gpu-0", state="ended")
        assert words(folder)["gpu-0"] == "lost"

    def test_node_of_another_pod_is_judged_by_its_beat(self, folder: Path) -> None:
        state = make_state(folder)
        path = agent(state, "head", engine="abcd", host="another", pid=1)
        assert words(folder) == {"head": "ready"}
        then = time.time() - SILENT_SECONDS - 1
        os.utime(path, (then, then))
        assert words(folder) == {"head": "lost"}
        assert snapshot(folder, NAME)["state"] == "lost"

    def test_models(self, folder: Path) -> None:
        state = make_state(folder)
        model(state, "org/chat", replicas=2)
        (row,) = snapshot(folder, NAME)["models"]
        assert (row["state"], row["replicas"]) == ("scheduling", {"ready": 0, "wanted": 2})
        gateway_says(state, replica("org/chat", "loading"))
        (row,) = snapshot(folder, NAME)["models"]
        assert row["state"] == "loading"
        gateway_says(state, replica("org/chat"), replica("org/chat", "failed", message="OOM"))
        (row,) = snapshot(folder, NAME)["models"]
        assert (row["name"], row["state"], row["message"]) == ("org/chat", "degraded", "OOM")
        assert row["endpoint"] == "/v1"
        assert [each["phase"] for each in row["instances"]] == ["ready", "failed"]

    def test_gateway_that_fell_silent(self, folder: Path) -> None:
        state = make_state(folder)
        model(state, "chat")
        gateway_says(state, replica("chat"), age=STALE_SECONDS + 1)
        data = snapshot(folder, NAME)
        assert data["models"][0]["state"] == "unknown"
        assert data["models_age"] > STALE_SECONDS

    def test_damaged_files(self, folder: Path) -> None:
        state = make_state(folder)
        write_status(folder, "ready")
        gateway_says(state)
        agent(state, "head")
        for path in (folder / "status.json", folder / "gateway" / "replicas.json"):
            for text in ("{", "[]", '{"replicas": [1], "time": 1, "more": 2}'):
                path.write_text(text)
                assert snapshot(folder, NAME)["state"] == "degraded"
        state.record_path.write_text("{}")
        data = snapshot(folder, NAME)
        assert (data["state"], "another version" in data["message"]) == ("failed", True)
        make_state(folder)
        assert snapshot(folder, NAME)["state"] == "degraded"
        (folder / "nodes" / "head.json").write_text("{")
        assert snapshot(folder, NAME)["state"] == "failed"

    def test_nothing_secret(self, folder: Path) -> None:
        state = make_state(folder, spec={"gateway": {"api_keys": ["${CAI_API_KEY}"]}})
        state.set_variables({"CAI_API_KEY": KEY})
        agent(state, "head", dashboard_port=1)
        data = snapshot(folder, NAME)
        assert data["key_needed"] is True
        assert data["dashboard"] == "/dashboard/"
        text = json.dumps(data)
        for secret in (KEY, state.token_path.read_text(), state.internal_key()):
            assert secret not in text

    def test_public(self, folder: Path) -> None:
        state = make_state(folder)
        agent(state, "head", dashboard_port=1)
        model(state, "chat")
        gateway_says(state, replica("chat", message="m", log="/home/x.log"))
        write_status(folder, "ready", "a path: /home/cdsw")
        data = snapshot(folder, NAME, public=True)
        assert (data["message"], data["dashboard"]) == ("", None)
        assert [node["ip"] for node in data["nodes"]] == [""]
        assert data["models"][0]["instances"] == []
        assert data["models"][0]["state"] == "ready"
        assert "/home" not in json.dumps(data)


class TestReplicaWriter:
    def test_what_it_writes_is_read(self, folder: Path) -> None:
        (folder / "gateway").mkdir(parents=True)
        rows = (replica("a"), replica("b", "loading"))
        writer = ReplicaWriter(folder / "gateway")
        writer.write(rows)
        writer.write(())
        found = read_replicas(folder)
        assert found is not None
        # The second call came too soon.
        assert found.rows == rows
        assert time.time() - found.time < 10
        assert (folder / "gateway" / "replicas.json").stat().st_mode & 0o777 == 0o600

    def test_no_room(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        ReplicaWriter(folder / "missing").write(())
        assert "could not be written" in caplog.text


@pytest.mark.browser
class TestInBrowser:
    @pytest.fixture
    def asked(self) -> list[dict[str, Any]]:
        return []

    @pytest.fixture
    def go_on(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def door(
        self, folder: Path, asked: list[dict[str, Any]], go_on: threading.Event
    ) -> Iterator[Door]:
        """Before a gateway that says a word, waits to be told, and says the rest."""

        def gateway(handler: BaseHTTPRequestHandler) -> None:
            if not handler.path.endswith("/chat/completions"):
                return answer(handler, b"")
            body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
            asked.append({**body, "key": handler.headers.get("Authorization")})
            begin_stream(handler)
            for piece in ("<b>bold", " words</b>"):
                event = {"choices": [{"delta": {"content": piece}}]}
                chunk(handler, f"data: {json.dumps(event)}\n\n")
                go_on.wait(20)
            chunk(handler, "data: [DONE]\n\n")
            chunk(handler, "")
            return None

        with stand_in(gateway) as port, Door(folder) as door:
            spec = {"gateway": {"api_keys": [KEY]}}
            state = make_state(folder, port, spec)
            agent(state, "head", dashboard_port=1)
            model(state, NASTY)
            gateway_says(state, replica(NASTY, running=3, message=NASTY))
            write_status(folder, "recovering", NASTY)
            door.wait_for_page()
            door.wait_for("/health")
            yield door

    def test_page(self, door: Door, asked: list[dict[str, Any]], go_on: threading.Event) -> None:
        from selenium.webdriver import Keys
        from selenium.webdriver.common.by import By
        from web import chromium, complaints, events, origins

        with chromium() as driver:

            def text(name: str) -> str:
                return str(driver.find_element(By.ID, name).text)

            driver.get(door.url)
            until(lambda: "head" in text("nodes"), 15, "the nodes")
            assert text("name") == NAME
            assert NASTY in text("message")
            assert text("models").startswith(f"{NASTY} ready 1 of 1 echo")
            assert text("replicas") == f"{NASTY} ready head 3 0"
            assert text("nodes") == "head ready head 10.0.0.7 2 1"
            assert text("endpoint") == f"{door.url}/v1"
            link = driver.find_element(By.ID, "dashboard").get_attribute("href")
            assert link == f"{door.url}/dashboard/"
            assert driver.find_elements(By.CSS_SELECTOR, "td img, td script") == []

            # By keyboard alone.
            driver.find_element(By.ID, "model").send_keys(
                Keys.TAB, KEY, Keys.TAB, "Hi", Keys.ENTER
            )
            until(lambda: "<b>bold" in text("talk"), 15, "the first piece")
            assert "words" not in text("talk")
            assert driver.find_element(By.ID, "stop").is_enabled()
            go_on.set()
            until(lambda: "<b>bold words</b>" in text("talk"), 15, "the rest")
            until(driver.find_element(By.ID, "send").is_enabled, 15, "the end")
            assert [(a["model"], a["key"], a["stream"]) for a in asked] == [
                (NASTY, f"Bearer {KEY}", True)
            ]
            assert asked[0]["messages"] == [{"role": "user", "content": "Hi"}]
            stored = driver.execute_script(
                "return [localStorage.length, sessionStorage.length, document.cookie]"
            )
            assert stored == [0, 0, ""]
            assert KEY not in driver.page_source

            # A phone.
            driver.set_window_size(360, 740)
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= driver.execute_script("return window.innerWidth")
            assert complaints(driver) == []
            assert origins(events(driver)) == {f"{HOST}:{door.port}"}
            assert driver.title == f"{NAME}: degraded" or driver.title == f"{NAME}: ready"

    @pytest.mark.parametrize("scheme", ["dark", "light"])
    def test_colours(self, door: Door, scheme: str) -> None:
        from web import chromium

        with chromium() as driver:
            feature = {"name": "prefers-color-scheme", "value": scheme}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            driver.get(door.url)
            colour = driver.execute_script(
                "return getComputedStyle(document.body).backgroundColor"
            )
        assert colour == {"dark": "rgb(13, 17, 23)", "light": "rgb(255, 255, 255)"}[scheme]

    def test_refusal_is_shown(self, folder: Path) -> None:
        from selenium.webdriver.common.by import By
        from web import chromium

        with Door(folder) as door:
            door.wait_for_page()
            model(make_state(folder), "chat")
            with chromium() as driver:
                driver.get(door.url)
                box = driver.find_element(By.ID, "model")
                until(lambda: box.text == "chat", 15, "the model")
                driver.find_element(By.ID, "prompt").send_keys("Hi")
                driver.find_element(By.ID, "send").click()
                talk = driver.find_element(By.ID, "talk")
                until(lambda: "503: the cluster's gateway is not there" in talk.text, 15, "why")
