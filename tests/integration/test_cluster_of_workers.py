"""A cluster on the stand-in platform: a session and its workers, each in a network of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import psutil
import pytest
from fakes.cloudera.inside import API_KEY, SessionCai
from fakes.cloudera.platform import Platform, Worker
from support import Cluster, cluster_spec, short_folder, until

pytestmark = [pytest.mark.ray, pytest.mark.root]

SHM_MEGABYTES = 256
FOREVER = float("inf")
SPEC = {
    "provider": {"type": "cai-workers"},
    "head": {"cpu": 0, "memory": "1Gi"},
    "workers": [{"name": "side", "count": 3, "cpu": 1, "memory": "1Gi"}],
    "gateway": {"port": "auto", "api_keys": ["${CAI_API_KEY}"]},
}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with short_folder() as folder:
        made = Platform(folder)
        # `ray` need not be found there.
        made.project.path = "/usr/sbin:/usr/bin:/sbin:/bin"
        made.knobs.wanted = {"shm_megabytes": SHM_MEGABYTES}
        yield made
        made.close()


@pytest.fixture(scope="module")
def cluster(platform: Platform) -> Cluster:
    session = platform.session(shm_megabytes=SHM_MEGABYTES)
    cai = SessionCai(platform.project.folder, session=session)
    return Cluster.up(cai, "apart", **SPEC)


def test_nodes_have_addresses_of_their_own(cluster: Cluster) -> None:
    nodes = cluster.cai.json("cluster", "status", "apart")["nodes"]
    assert {node["id"]: node["state"] for node in nodes} == {
        "head": "ready",
        "side-0": "ready",
        "side-1": "ready",
        "side-2": "ready",
    }
    assert len({node["ip"] for node in nodes}) == 4


def test_model_is_spread_over_the_workers(cluster: Cluster, platform: Platform) -> None:
    cluster.deploy_ok("there", replicas=3)
    where = {row["endpoint"] for row in cluster.model("there")["instances"]}
    addresses = [worker.workload.ip for worker in platform.live()]
    assert all(any(address in each for each in where) for address in addresses)
    assert "What is cai?" in chat(cluster, "there")


def test_dead_worker_is_replaced(cluster: Cluster, platform: Platform) -> None:
    doomed = worker_of(cluster, platform, "side-1")
    doomed.workload.kill()
    until(lambda: cluster.node_states()["side-1"] == "lost", 30, "status says lost")
    done = cluster.cai.json("cluster", "up", cluster.spec)
    assert [(action["verb"], action["name"]) for action in done["actions"]] == [
        ("replace", "side-1")
    ]
    assert set(cluster.node_states().values()) == {"ready"}
    assert worker_of(cluster, platform, "side-1").workload.id != doomed.workload.id


def test_another_session_reaches_the_models(cluster: Cluster, platform: Platform) -> None:
    """Its pod is no node of the cluster; it cannot end what is not its own."""
    session = platform.session(shm_megabytes=SHM_MEGABYTES)
    cai = SessionCai(platform.project.folder, session=session)
    # The replica of the worker that was replaced starts anew.
    until(lambda: states(cai) == {"there": "ready"}, 60, "all replicas")
    assert {node["state"] for node in cai.json("cluster", "status", "apart")["nodes"]} == {"ready"}
    cai.ok("model", "scale", "there", "2")
    until(lambda: cluster.model("there")["replicas"] == {"ready": 2, "wanted": 2}, 60, "two")
    refused = cai("cluster", "down", "apart", "--yes")
    assert (refused.returncode, "CAI-PROVIDER-005" in refused.stderr) == (1, True)
    session.stop()


def test_no_secret_is_shown(cluster: Cluster, platform: Platform) -> None:
    """Not in what the workers were launched with, nor in what they and the nodes wrote."""
    token = (cluster.folder / "token").read_text()
    shown = json.dumps([worker.asked for worker in platform.workers.values()])
    shown += "".join(worker.workload.console.read_text() for worker in platform.workers.values())
    shown += "".join(path.read_text(errors="replace") for path in cluster.folder.glob("logs/*"))
    shown += "".join(cluster.cai.said)
    for secret in (token, API_KEY, platform.project.api_key, platform.project.apiv2_key):
        assert secret not in shown


def test_down_leaves_nothing(cluster: Cluster, platform: Platform) -> None:
    cluster.down_without_trace()
    until(lambda: not platform.live(), 15, "the end of the workers")


def test_head_in_a_worker(platform: Platform) -> None:
    """It comes long after its worker, and `up` is killed meanwhile; the next one goes on."""
    session = platform.session(shm_megabytes=SHM_MEGABYTES)
    cai = SessionCai(platform.project.folder, session=session)
    spec = SPEC | {
        "provider": {"type": "cai-workers", "head_in": "worker"},
        "workers": [{"name": "side", "count": 1, "cpu": 1, "memory": "1Gi"}],
        "gateway": {"host": "0.0.0.0", "port": "auto", "api_keys": ["${CAI_API_KEY}"]},
    }
    platform.knobs.late = [FOREVER]
    first = cai.start("cluster", "up", cai.write("inside.yaml", cluster_spec("inside", **spec)))
    rows = cai.state("inside") / "nodes"
    until((rows / "side-0.json").is_file, 60, "the worker's agent")
    psutil.Process(first.pid).children(recursive=True)[-1].kill()
    first.communicate()
    head, side = platform.live()
    assert not (rows / "head.json").exists()

    head.late = 0.0
    cluster = Cluster.up(cai, "inside", **spec)
    assert platform.live() == [head, side]
    assert cluster.url.startswith(f"http://{head.workload.ip}:")
    cluster.deploy_ok("there")
    (replica,) = cluster.model("there")["instances"]
    assert side.workload.ip in replica["endpoint"]
    assert "What is cai?" in chat(cluster, "there")
    cluster.down_without_trace()
    until(lambda: not platform.live(), 15, "the end of the workers")


def test_another_session_recovers_what_died_with_the_first(platform: Platform) -> None:
    """Here an editor's, whose port is taken; and the worker has little shared memory."""
    session = platform.session(shm_megabytes=SHM_MEGABYTES, port_taken=True)
    platform.knobs.wanted = {"shm_megabytes": 64}
    cai = SessionCai(platform.project.folder, session=session)
    groups = [{"name": "side", "count": 1, "cpu": 1, "memory": "1Gi"}]
    cluster = Cluster.up(cai, "brief", **SPEC | {"workers": groups})
    (warning,) = json.loads((cluster.folder / "nodes" / "side-0.json").read_text())["warnings"]
    assert "shared_memory_limit" in warning
    cluster.deploy_ok("kept")
    before = cluster.processes()
    assert len(platform.live()) == 1
    psutil.Process(session.first_process).kill()
    until(lambda: not platform.live(), 15, "the end of the workers")
    until(lambda: not any(process.is_running() for process in before), 15, "their processes")
    cai.session = platform.session()
    long_ago = time.time() - 3600
    for row in cluster.folder.glob("nodes/*.json"):
        os.utime(row, (long_ago, long_ago))
    (row,) = cai.json("cluster", "list")["clusters"]
    assert (row["name"], row["state"]) == ("brief", "lost")
    done = cai.json("cluster", "recover", "brief")
    verbs = {(action["verb"], action["name"]) for action in done["actions"]}
    assert {("replace", "head"), ("replace", "side-0"), ("start", "kept")} <= verbs
    assert "What is cai?" in chat(cluster, "kept")
    cluster.down_without_trace()
    until(lambda: not platform.live(), 15, "the end of the workers")


def states(cai: SessionCai) -> dict[str, str]:
    return {row["name"]: row["state"] for row in cai.json("model", "list")["models"]}


def chat(cluster: Cluster, model: str) -> str:
    words = ["model", "chat", model, "What is cai?", "--cluster", cluster.name]
    return cluster.cai.ok(*words).stdout


def worker_of(cluster: Cluster, platform: Platform, node_id: str) -> Worker:
    row = json.loads((cluster.folder / "nodes" / f"{node_id}.json").read_text())
    return platform.workers[row["engine"]]
