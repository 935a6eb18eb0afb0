"""`up` that is interrupted, killed, or asked for twice at the same time."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support import Cai, Cluster, cluster_spec, until

from ray_serve_cai.providers.processes import marked

pytestmark = pytest.mark.ray

NAME = "broken"


@pytest.fixture
def spec(cai: Cai) -> Path:
    return cai.write("broken.yaml", cluster_spec(NAME))


def half_way(cai: Cai, spec: Path) -> subprocess.Popen[str]:
    """An `up` whose head has begun to start."""
    process = cai.start("cluster", "up", spec)
    row = cai.state(NAME) / "nodes" / "head.json"
    until(lambda: row.is_file() or process.poll() is not None, 30, "the head's row")
    assert process.poll() is None
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def assert_no_trace(cai: Cai) -> None:
    assert list(marked(cai.state(NAME))) == []
    assert {path.name for path in cai.state(NAME).iterdir()} <= {"logs"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(cai: Cai, spec: Path, number: signal.Signals) -> None:
    process = half_way(cai, spec)
    process.send_signal(number)
    status, err = ended(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert_no_trace(cai)


def test_killed_then_down(cai: Cai, spec: Path) -> None:
    process = half_way(cai, spec)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    assert list(marked(cai.state(NAME)))
    cai.ok("cluster", "down", NAME, "--yes")
    assert_no_trace(cai)


def test_in_time_out(cai: Cai, spec: Path) -> None:
    done = cai("cluster", "up", spec, "--timeout", "0.1s")
    assert done.returncode == 4
    assert "CAI-CLUSTER-006" in done.stderr
    assert_no_trace(cai)


def test_two_at_once_one_killed_then_up_then_down_without_head(cai: Cai, spec: Path) -> None:
    first = half_way(cai, spec)
    second = cai("cluster", "up", spec)
    assert second.returncode == 1
    assert "CAI-CLUSTER-003" in second.stderr
    assert f"process {first.pid} " in second.stderr
    assert first.poll() is None

    first.kill()
    ended(first)
    data = cai.json("cluster", "up", spec)
    assert data["actions"]
    status = cai.json("cluster", "status", NAME)
    assert (status["state"], [node["id"] for node in status["nodes"]]) == ("ready", ["head"])
    assert cai.json("cluster", "up", spec)["actions"] == []

    cluster = Cluster(cai, NAME, spec, data["gateway_url"])
    (agent,) = cluster.commands("ray_serve_cai.cluster.node")
    agent.kill()
    until(lambda: cluster.node_states() == {"head": "lost"}, 15, "status says lost")
    cluster.down_without_trace()


def test_without_waiting(cai: Cai, spec: Path) -> None:
    cai.ok("cluster", "up", spec, "--no-wait")
    url = cai.ok("cluster", "wait", NAME).stdout.strip()
    cluster = Cluster(cai, NAME, spec, url)
    assert cluster.node_states() == {"head": "ready"}
    cluster.down_without_trace()


def test_port_in_use(cai: Cai) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        spec = cai.write("taken.yaml", cluster_spec(NAME, gateway={"port": port}))
        done = cai("cluster", "up", spec, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert (error["code"], str(port) in error["message"]) == ("CAI-CLUSTER-004", True)
    assert not cai.state(NAME).exists()
