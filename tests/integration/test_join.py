"""A second machine, stood in for by a network namespace, joins by hand and serves a replica."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import Cai, Cluster, ask, short_folder, until

pytestmark = [pytest.mark.ray, pytest.mark.root]

SPACE, OUTSIDE, INSIDE = "cai-test", "10.231.77.1", "10.231.77.2"


@pytest.fixture
def machine() -> Iterator[str]:
    """A namespace with an address of its own, and a link to this one."""
    steps = [
        f"ip netns add {SPACE}",
        f"ip link add cai-out type veth peer name cai-in netns {SPACE}",
        f"ip addr add {OUTSIDE}/24 dev cai-out",
        "ip link set cai-out up",
        f"ip -n {SPACE} addr add {INSIDE}/24 dev cai-in",
        f"ip -n {SPACE} link set cai-in up",
        f"ip -n {SPACE} link set lo up",
    ]
    subprocess.run(["ip", "netns", "del", SPACE], check=False, capture_output=True)
    try:
        for step in steps:
            subprocess.run(step.split(), check=True)
        yield SPACE
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


def test_joined_machine_serves(machine: str) -> None:
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_NODE_IP": OUTSIDE})
        try:
            cluster = Cluster.up(cai, "joined", head={"cpu": 0, "memory": "1Gi"})
            address = cai.json("cluster", "status", "joined")["ray_address"]
            # Without the token a machine is refused; it is one file of the state folder.
            words = ["cluster", "join", address, "--cpu", "1", "--memory", "1Gi"]
            words += ["--token-file", str(cluster.folder / "token"), "--node-ip", INSIDE]
            agent = subprocess.Popen(
                ["ip", "netns", "exec", machine, sys.executable, "-m", "ray_serve_cai", *words],
                env=cai.environment({"CAI_NODE_IP": INSIDE}),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                until(lambda: _joined(cai) == {"ready"}, 60, "the joined node")
                cluster.deploy_ok("there")
                (row,) = cluster.model("there")["instances"]
                assert INSIDE in row["endpoint"]
                assert ask(cluster.client(), "there") == "What is cai?"
            finally:
                agent.terminate()
                assert agent.wait(60) == 130
            until(lambda: not _joined(cai), 15, "the node to be gone from status")
            cluster.down_without_trace()
        finally:
            cai.end_everything()


def _joined(cai: Cai) -> set[str]:
    nodes = cai.json("cluster", "status", "joined")["nodes"]
    return {node["state"] for node in nodes if node["role"] == "worker"}
