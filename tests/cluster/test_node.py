"""The node agent's parts that need no Ray: its command line and its address."""

from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from ray_serve_cai.cluster.node import listens, own_address, ray_command
from ray_serve_cai.cluster.ports import free_port, is_taken
from ray_serve_cai.plan.nodes import NodePlan

HEAD = NodePlan("head", "head", "head", 2, 2**30, object_store_memory=2**27)
WORKER = NodePlan("gpu-0", "worker", "gpu", 16, 2**36, 2, (0, 1), "NVIDIA-L4")


class TestCommand:
    def test_head(self) -> None:
        command = ray_command(HEAD, "10.0.0.1:6379", "10.0.0.1", "/tmp/cai", "1f")
        assert command[:5] == [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        assert set(command[5:]) > {
            "--disable-usage-stats",
            "--labels=cai-node=head,cai-run=1f",
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
        assert not is_taken("127.0.0.1", port)
        assert not listens("127.0.0.1", port)

    def test_free_port_is_free(self) -> None:
        assert not is_taken("127.0.0.1", free_port("127.0.0.1"))
