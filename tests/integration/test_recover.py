"""A head that dies takes all of Ray along: what brings the cluster back, by hand and by serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import Cai, Cluster, ask, cluster_spec, echo_spec, until

pytestmark = pytest.mark.ray


def kill_head(cluster: Cluster) -> None:
    (agent,) = [p for p in cluster.commands("ray_serve_cai.cluster.node") if "head" in marks(p)]
    agent.kill()
    until(lambda: cluster.node_states()["head"] == "lost", 15, "status says lost")


def marks(process: object) -> str:
    return str(process.environ().get("CAI_NODE"))  # type: ignore[attr-defined]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_recover_brings_back_nodes_counts_and_models(cai: Cai) -> None:
    groups = [{"name": "side", "count": 0, "cpu": 1, "memory": "500Mi"}]
    cluster = Cluster.up(cai, "lazarus", head={"cpu": 3, "memory": "1Gi"}, workers=groups)
    cluster.deploy_ok("first", env={"WORD": "${WORD:-none}"})
    cluster.deploy_ok("second")
    # The last revision of a model counts, and what `scale` made of the cluster.
    cluster.deploy_ok("second", engine={"type": "echo", "args": {"tokens_per_second": 500}})
    idle = {"min": 0, "max": 1, "idle_after": "1s", "hold_timeout": "60s"}
    cluster.deploy_ok("idle", resources={"cpu": 0.5}, replicas=idle)
    cai.ok("cluster", "scale", "lazarus", "side=1")
    until(lambda: cluster.model("idle")["state"] == "idle", 40, "no replica of the idle one")
    assert cai.json("cluster", "recover", "lazarus")["actions"] == []

    kill_head(cluster)
    done = cai.json("cluster", "recover", "lazarus")
    assert {a["name"] for a in done["actions"] if a["kind"] == "model"} == {
        "first",
        "second",
        "idle",
    }
    assert done["gateway_url"] == cluster.url
    assert cluster.node_states() == {"head": "ready", "side-0": "ready"}
    for name, revision in (("first", 1), ("second", 2)):
        row = cluster.model(name)
        assert (row["state"], row["revision"]) == ("ready", revision)
        assert ask(cluster.client(), name) == "What is cai?"
    assert cluster.model("idle")["state"] == "idle"
    assert len(list((cluster.folder / "logs").glob("model-idle-r1-*"))) == 1, "it was not woken"
    assert ask(cluster.client(), "idle") == "What is cai?"
    cluster.down_without_trace()


def test_recover_of_nothing(cai: Cai) -> None:
    done = cai("cluster", "recover", "nobody", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "CAI-CLUSTER-001"


def test_serve_replaces_a_lost_head_and_goes_down_on_sigterm(cai: Cai, tmp_path: Path) -> None:
    spec = cai.write("s.yaml", cluster_spec("kept", head={"cpu": 2, "memory": "1Gi"}))
    model = cai.write("m.yaml", echo_spec("echoed"))
    said = tmp_path / "said"
    with said.open("w") as stderr:
        serve = cai.start("serve", spec, model, stderr=stderr)
    try:
        assert serve.stdout is not None
        url = serve.stdout.readline().strip().removesuffix("/v1")
        cluster = Cluster(cai, "kept", spec, url)
        assert ask(cluster.client(), "echoed") == "What is cai?"

        kill_head(cluster)
        until(lambda: "recovering node head" in said.read_text(), 20, "the loss is seen")
        # The old replica can answer until its node is cleared away.
        until(lambda: lines(said).count("cluster kept: ready") == 2, 60, "the recovery")
        assert ask(cluster.client(), "echoed") == "What is cai?"
        second = cai("serve", spec, model)
        assert (second.returncode, "CAI-CLUSTER-014" in second.stderr) == (1, True)
    finally:
        os.kill(serve.pid, signal.SIGTERM)
        status = serve.wait(60)
    assert status == 130
    assert {path.name for path in cluster.folder.iterdir()} == {"logs"}
    assert cluster.processes() == []


def test_serve_again_after_a_kill(cai: Cai) -> None:
    """The platform starts an application again by itself, after whatever ended it."""
    spec = cai.write("s.yaml", cluster_spec("again", head={"cpu": 2, "memory": "1Gi"}))
    model = cai.write("m.yaml", echo_spec("echoed"))
    serve = cai.start("serve", spec, model, stderr=subprocess.DEVNULL)
    assert serve.stdout is not None
    assert serve.stdout.readline().startswith("http://127.0.0.1")
    serve.kill()
    serve.wait()
    (agent,) = Cluster(cai, "again", spec, "").commands("ray_serve_cai.cluster.node")
    agent.kill()
    agent.wait()
    command = ["sh", "-c", 'test "$OPENAI_API_KEY" = none && curl -sf $OPENAI_BASE_URL/models']
    done = cai("serve", spec, model, "--", *command)
    assert done.returncode == 0, done.stderr
    assert '"echoed"' in done.stdout
    assert cai.json("cluster", "list")["clusters"] == []
