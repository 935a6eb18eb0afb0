"""A real cluster of three local nodes that lose processes one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from support import Asker, Cai, Cluster, ask, short_folder, until

pytestmark = pytest.mark.ray

SEEN_WITHIN = 15.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    workers = [{"name": "side", "count": 2, "cpu": 1, "memory": "512Mi"}]
    with short_folder() as folder:
        cai = Cai(folder)
        try:
            made = Cluster.up(cai, "three", head={"cpu": 0, "memory": "1Gi"}, workers=workers)
            yield made
        finally:
            cai.end_everything()


def agent(cluster: Cluster, node: str) -> psutil.Process:
    (found,) = (p for p in cluster.processes(node) if "ray_serve_cai.cluster.node" in p.cmdline())
    return found


def up_again(cluster: Cluster) -> list[tuple[str, str]]:
    data = cluster.cai.json("cluster", "up", cluster.spec)
    return [(action["verb"], action["name"]) for action in data["actions"]]


def test_all_nodes_are_there(cluster: Cluster) -> None:
    assert cluster.node_states() == {"head": "ready", "side-0": "ready", "side-1": "ready"}
    (row,) = cluster.cai.json("cluster", "list")["clusters"]
    assert (row["nodes"], row["state"]) == (3, "ready")


def test_gateway_comes_back_without_any_model(cluster: Cluster) -> None:
    """No replica reports to the new life of its actor."""
    (smg,) = cluster.commands("smg::router")
    actor = smg.parent()
    assert actor is not None
    actor.kill()
    until(lambda: not smg.is_running(), 5, "the end of SMG with its actor")
    until(lambda: gateway_answers(cluster.url), 20, "the gateway's return")


def gateway_answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/liveness", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("victim", ["agent", "raylet"])
def test_worker_that_is_killed(cluster: Cluster, victim: str) -> None:
    if victim == "agent":
        agent(cluster, "side-1").kill()
    else:
        (raylet,) = (p for p in cluster.processes("side-1") if p.name() == "raylet")
        raylet.kill()
    until(lambda: cluster.node_states()["side-1"] == "lost", SEEN_WITHIN, "status says lost")
    assert cluster.cai.json("cluster", "status", "three")["state"] == "degraded"
    assert up_again(cluster) == [("replace", "side-1")]
    assert set(cluster.node_states().values()) == {"ready"}
    assert up_again(cluster) == []


def test_replica_of_a_lost_node_moves(cluster: Cluster) -> None:
    cluster.deploy_ok("moving", resources={"cpu": 1})
    (pid,) = (row["pid"] for row in cluster.model("moving")["instances"])
    node = psutil.Process(pid).environ()["CAI_NODE"]
    assert node != "head"
    for process in cluster.processes(node):
        process.kill()
    client = cluster.client()
    until(lambda: answers(client), 60, "an answer from another node")
    assert ("replace", node) in up_again(cluster)
    cluster.delete("moving")


def node_of(cluster: Cluster, model: str) -> str:
    (pid,) = (row["pid"] for row in cluster.model(model)["instances"] if row["phase"] == "ready")
    return psutil.Process(pid).environ()["CAI_NODE"]


def answers(client: Any) -> bool:
    import openai

    try:
        return bool(ask(client, "moving"))
    except openai.APIError:
        return False


def test_scaling_down_moves_replicas_first(cluster: Cluster) -> None:
    names = ("first", "second")
    for name in names:
        cluster.deploy_ok(name, resources={"cpu": 1})
    (stays,) = (name for name in names if node_of(cluster, name) == "side-1")
    (goes,) = (name for name in names if name != stays)
    cluster.delete(goes)
    with Asker(cluster.client(), stays) as asker:
        data = cluster.cai.json("cluster", "scale", "three", "side=1")
        asker.wait_for(5)
    assert asker.failures == []
    assert node_of(cluster, stays) == "side-0"
    cluster.delete(stays)
    assert [(a["verb"], a["name"]) for a in data["actions"]] == [("delete", "side-1")]
    assert cluster.node_states() == {"head": "ready", "side-0": "ready"}
    assert up_again(cluster) == [("create", "side-1")]


def test_unknown_group(cluster: Cluster) -> None:
    done = cluster.cai("cluster", "scale", "three", "sied=1")
    assert (done.returncode, "CAI-CLUSTER-012" in done.stderr) == (2, True)


def test_down_when_half_the_nodes_are_gone(cluster: Cluster) -> None:
    """The head among them, killed as a whole; what is left of the cluster goes all the same."""
    for process in [*cluster.processes("head"), *cluster.processes("side-0")]:
        process.kill()
    assert cluster.processes("side-1")
    assert cluster.cai.json("cluster", "status", "three")["state"] in ("degraded", "lost")
    done = cluster.cai("model", "list")
    assert (done.returncode, "CAI-CLUSTER-009" in done.stderr) == (1, True)
    cluster.down_without_trace()
