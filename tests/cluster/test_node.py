"""The node agent's parts that need no Ray: its command line and its address."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
from support import until

from ray_serve_cai.cluster import node
from ray_serve_cai.cluster.node import Agent, own_address, own_plan, ray_command
from ray_serve_cai.cluster.ports import free_port, is_taken, listens, speaks
from ray_serve_cai.plan.nodes import (
    ASSIGNMENTS,
    ENGINE_VARIABLE,
    PATIENCE_VARIABLE,
    PLAN_VARIABLE,
    NodePlan,
)
from ray_serve_cai.providers.cai_library import LIMITS

HEAD = NodePlan("head", "head", "head", 2, 2**30, object_store_memory=2**27)
WORKER = NodePlan("gpu-0", "worker", "gpu", 16, 2**36, 2, (0, 1), "NVIDIA-L4")


class TestOwnPlan:
    @pytest.fixture(autouse=True)
    def pod(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENGINE_VARIABLE, "engine7")
        monkeypatch.delenv(PLAN_VARIABLE, raising=False)

    def test_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PLAN_VARIABLE, WORKER.to_json())
        assert own_plan(tmp_path) == NodePlan.from_json(WORKER.to_json())

    def test_assigned_after_the_pod_began(self, tmp_path: Path) -> None:
        (tmp_path / ASSIGNMENTS).mkdir()
        path = tmp_path / ASSIGNMENTS / "engine7"
        writer = threading.Timer(0.2, path.write_text, [HEAD.to_json()])
        writer.start()
        assert own_plan(tmp_path) == HEAD
        writer.join()

    def test_waits_as_long_as_the_launch_call_may_take(self) -> None:
        """The plans are written after it, and its first workers run long before."""
        assert LIMITS["launch_workers"] < node.ASSIGNMENT_SECONDS

    def test_never_assigned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker whose launch got no answer ends by itself."""
        monkeypatch.setattr(node, "ASSIGNMENT_SECONDS", 0.1)
        with pytest.raises(TimeoutError, match=r"no plan in .*/assignments/engine7"):
            own_plan(tmp_path)


class TestHead:
    """The agent's patience with the head, and the head's with its control process."""

    LISTENING = """\
import os, socket, sys, time
folder, port = sys.argv[1], int(sys.argv[2])
def wait(name):
    while not os.path.exists(os.path.join(folder, name)):
        time.sleep(0.01)
open(os.path.join(folder, "begun"), "w").close()
wait("listen")
server = socket.create_server(("127.0.0.1", port))
wait("end")
"""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("CAI_NODE_IP", "127.0.0.1")
        monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
        monkeypatch.delenv(node.TEMP_VARIABLE, raising=False)
        (tmp_path / "nodes").mkdir()
        return tmp_path

    def command(self, folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def stand_in(plan: NodePlan, address: str, *_: object) -> list[str]:
            return [sys.executable, "-c", code, str(folder), address.rpartition(":")[2]]

        monkeypatch.setattr(node, "ray_command", stand_in)

    def state(self, folder: Path, name: str) -> str:
        try:
            return str(json.loads((folder / "nodes" / f"{name}.json").read_text())["state"])
        except FileNotFoundError:
            return ""

    def test_runs_once_it_answers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mesh accepts for it before; what others see is the row."""
        self.command(folder, self.LISTENING, monkeypatch)
        looks: list[bool] = []

        def looking(host: str, port: int) -> bool:
            looks.append(listens(host, port))
            return looks[-1]

        monkeypatch.setattr(node, "listens", looking)
        running = threading.Thread(target=Agent(folder, HEAD).run)
        running.start()
        try:
            until((folder / "begun").exists, 20, "its process")
            looks.clear()
            until(lambda: False in looks, 20, "a look in vain")
            before = self.state(folder, "head")
            (folder / "listen").touch()
            until(lambda: self.state(folder, "head") == "running", 20, "its answer")
        finally:
            (folder / "listen").touch()
            (folder / "end").touch()
            running.join()
        assert before == "starting"
        assert self.state(folder, "head") == "ended"

    def test_ends_before_it_answers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.command(folder, "raise SystemExit(7)", monkeypatch)
        assert Agent(folder, HEAD).run() == 7

    def test_late_head(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A head may wait for a machine as long as the launcher is patient."""
        self.command(folder, "raise SystemExit(0)", monkeypatch)
        monkeypatch.setattr(node, "HEAD_WAIT_SECONDS", 0.0)
        monkeypatch.setenv(PATIENCE_VARIABLE, "20")
        found: list[int] = []
        worker = replace(WORKER, gpu_ids=None)
        running = threading.Thread(target=lambda: found.append(Agent(folder, worker).run()))
        running.start()
        until(lambda: self.state(folder, "gpu-0"), 10, "its row")
        with speaking() as port:
            write_head(folder, port)
            running.join()
        assert found == [0]

    def test_head_that_takes_connections_and_says_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As a mesh's sidecar makes it look; Ray would be at it for a quarter of an hour."""
        self.command(folder, "raise SystemExit(0)", monkeypatch)
        monkeypatch.setattr(node, "SILENT_HEAD_SECONDS", 0.2)
        monkeypatch.setattr(node, "speaks", partial(speaks, seconds=0.3))
        with socket.create_server(("127.0.0.1", 0)) as server:
            write_head(folder, server.getsockname()[1])
            assert Agent(folder, replace(WORKER, gpu_ids=None)).run() == 1
        said = capsys.readouterr().err
        assert "takes connections and says nothing" in said
        assert "service mesh" in said
        assert self.state(folder, "gpu-0") == "ended"

    def test_mesh_that_lets_it_pass_after_all(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.command(folder, "raise SystemExit(0)", monkeypatch)
        looks: list[bool] = []

        def look(*where: object) -> bool:
            looks.append(len(looks) > 2)
            return looks[-1]

        monkeypatch.setattr(node, "speaks", look)
        with socket.create_server(("127.0.0.1", 0)) as server:
            write_head(folder, server.getsockname()[1])
            assert Agent(folder, replace(WORKER, gpu_ids=None)).run() == 0
        assert looks == [False, False, False, True]

    def test_head_that_never_comes(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(node, "HEAD_WAIT_SECONDS", 0.1)
        assert Agent(folder, WORKER).run() == 1
        assert "did not come up within 0 s" in capsys.readouterr().err


def write_head(folder: Path, port: int) -> None:
    row = {"state": "running", "ip": "127.0.0.1", "ray_port": port, "run": "1"}
    (folder / "nodes" / "head.json").write_text(json.dumps(row))


@contextmanager
def speaking() -> Iterator[int]:
    """The port of a gRPC server, which Ray's control process is."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


class TestCommand:
    def test_head(self) -> None:
        command = ray_command(HEAD, "10.0.0.1:6379", "10.0.0.1", "/tmp/cai", "1f")
        assert command[:5] == [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        assert set(command[5:]) > {
            "--disable-usage-stats",
            "--labels=cai-node=head,cai-run=1f,cai-role=head",
            "--num-cpus=2",
            "--num-gpus=0",
            "--memory=1073741824",
            "--object-store-memory=134217728",
            "--head",
            "--port=6379",
            "--node-ip-address=10.0.0.1",
            "--include-dashboard=false",
            "--temp-dir=/tmp/cai/r",
        }

    def test_worker_joins_the_head(self) -> None:
        command = ray_command(WORKER, "10.0.0.1:6379", "10.0.0.2", None)
        assert set(command) > {
            '--resources={"accelerator_type:NVIDIA-L4": 1}',
            "--address=10.0.0.1:6379",
            "--node-ip-address=10.0.0.2",
            "--num-gpus=2",
        }
        assert "--head" not in command

    def test_workers_of_one_machine_share_no_folder(self) -> None:
        """Ray counts up the names of its sockets, and two that start at once take the same."""
        folders = {ray_command(WORKER, "h:1", "h", "/tmp/cai")[-1] for _ in range(2)}
        assert len(folders) == 2
        assert all(folder.startswith("--temp-dir=/tmp/cai/") for folder in folders)

    @pytest.mark.parametrize(("cpu", "told"), [(0, 0), (0.5, 1), (1, 1), (2.9, 2)])
    def test_whole_cpus(self, cpu: float, told: int) -> None:
        node = NodePlan("a-0", "worker", "a", cpu)
        assert f"--num-cpus={told}" in ray_command(node, "h:1", "h", None)

    def test_ray_knows_every_option(self) -> None:
        """Ray's own parser, which refuses what it does not know before it starts anything."""
        commands = [ray_command(node, "h:1", "h", "/tmp/cai") for node in (HEAD, WORKER)]
        given = {word.split("=")[0] for line in commands for word in line if word[:2] == "--"}
        from ray.scripts.scripts import start

        known = {option for parameter in start.params for option in parameter.opts}
        assert given <= known


class TestAddress:
    @pytest.mark.parametrize("variable", ["CAI_NODE_IP", "CDSW_IP_ADDRESS"])
    def test_given(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "10.1.2.3")
        assert own_address() == "10.1.2.3"

    def test_is_one_of_this_machine(self) -> None:
        ours = {a.address for many in psutil.net_if_addrs().values() for a in many}
        assert own_address() in ours

    @pytest.mark.root
    def test_machine_without_a_network(self) -> None:
        code = "from ray_serve_cai.cluster.node import own_address; print(own_address())"
        command = ["unshare", "--net", sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "127.0.0.1\n"


class TestPorts:
    def test_taken_and_free(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert is_taken("127.0.0.1", port)
            assert is_taken("", port)
            assert listens("127.0.0.1", port)
            assert not speaks("127.0.0.1", port, seconds=0.2)
        assert not is_taken("127.0.0.1", port)
        assert not listens("127.0.0.1", port)

    def test_speaks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Past the proxies that the environment names."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        with speaking() as port:
            assert speaks("127.0.0.1", port)

    def test_free_port_is_free(self) -> None:
        assert not is_taken("127.0.0.1", free_port("127.0.0.1"))
