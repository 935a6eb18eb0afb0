"""A model of two replicas on a cluster that holds three: its revisions change places one by one,
under load, and no request fails."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import Asker, Cluster, ask, echo_spec, until

pytestmark = pytest.mark.ray

NAME = "rolled"
# Of the cluster's four; answers take a third of a second.
KEYS: dict[str, Any] = {"replicas": 2, "resources": {"cpu": 1.3}}
SLOW: dict[str, Any] = {"type": "echo", "args": {"tokens_per_second": 25}}
# Long enough to be hit in the midst of a roll.
DELAYED: dict[str, Any] = {"type": "echo", "args": {**SLOW["args"], "start_delay": 3}}


@pytest.fixture(scope="module")
def cluster(echo_cluster: Cluster) -> Cluster:
    echo_cluster.deploy_ok(NAME, engine=SLOW, env={"WORD": "first", "A_TOKEN": "hush"}, **KEYS)
    return echo_cluster


def half_way(cluster: Cluster, word: str) -> subprocess.Popen[str]:
    """A deploy of another revision that has just let the first of the old replicas go."""
    keys = {**KEYS, "engine": DELAYED, "env": {"WORD": word, "A_TOKEN": "psst"}}
    spec = cluster.cai.write(f"{word}.yaml", echo_spec(NAME, **keys))
    process = cluster.cai.start("model", "deploy", spec)
    assert process.stderr is not None
    for line in process.stderr:
        if "rolling" in line:
            return process
    raise AssertionError(f"it did not roll; exit {process.wait()}")


def second_spec(cluster: Cluster) -> Path:
    keys = {**KEYS, "engine": SLOW, "env": {"WORD": "second"}}
    return cluster.cai.write("second.yaml", echo_spec(NAME, **keys))


def state(cluster: Cluster) -> tuple[int, str, dict[str, int], int]:
    row = cluster.model(NAME)
    return row["revision"], row["state"], row["replicas"], len(row["instances"])


TWO = {"ready": 2, "wanted": 2}


def test_plan_says_how(cluster: Cluster) -> None:
    spec = cluster.cai.write("change.yaml", echo_spec(NAME, engine=SLOW, **KEYS))
    data = cluster.cai.json("model", "plan", spec)
    assert (data["strategy"], data["steps"]) == (
        "rolling",
        [{"new": 1, "old": 1}, {"new": 2, "old": 0}],
    )
    wide = cluster.cai.json("model", "plan", spec, "--set", "resources.cpu=2")
    assert wide["strategy"] == "stop-then-start"
    assert "stop, then start" in wide["actions"][0]["detail"]


def test_roll_loses_no_request(cluster: Cluster) -> None:
    with Asker(cluster.client(), NAME, threads=4) as asker:
        cluster.cai.ok("model", "deploy", second_spec(cluster))
        asker.wait_for(5)
    assert asker.failures == []
    until(lambda: state(cluster) == (2, "ready", TWO, 2), 30, "the new revision alone")


def test_interrupt_brings_the_old_count_back(cluster: Cluster) -> None:
    with Asker(cluster.client(), NAME, threads=4) as asker:
        process = half_way(cluster, "third")
        # Somebody else's turn comes later.
        second = cluster.cai("model", "rollback", NAME, "--yes")
        assert (second.returncode, "CAI-CLUSTER-003" in second.stderr) == (1, True)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=150)
        assert process.returncode == 130, said
        asker.wait_for(5)
    assert asker.failures == []
    until(lambda: state(cluster) == (2, "ready", TWO, 2), 30, "the old revision alone")


def test_kill_half_way_and_rollback(cluster: Cluster) -> None:
    with Asker(cluster.client(), NAME, threads=4) as asker:
        process = half_way(cluster, "fourth")
        process.kill()
        process.communicate()
        asker.wait_for(5)
        revision, word, replicas, _ = state(cluster)
        assert (revision, word, replicas["wanted"]) == (2, "ready", 2)
        scaled = cluster.cai("model", "scale", NAME, "1")
        assert (scaled.returncode, "CAI-MODEL-005" in scaled.stderr) == (1, True)

        refused = cluster.cai("model", "rollback", NAME)
        assert (refused.returncode, "CAI-CLI-002" in refused.stderr) == (2, True)
        plan = cluster.cai.json("model", "rollback", NAME, "--dry-run")
        assert plan["notes"][-1] == "revision 1 again"
        same = cluster.cai.json("model", "plan", second_spec(cluster))
        assert [action["verb"] for action in same["actions"]] == ["delete"]
        done = cluster.cai.json("model", "rollback", NAME, "--yes")
        assert (done["revision"], done["strategy"]) == (5, "rolling")
        asker.wait_for(5)
    assert asker.failures == []
    until(lambda: state(cluster) == (5, "ready", TWO, 2), 30, "the first revision again")
    assert ask(cluster.client(), NAME)
    unknown = cluster.cai("model", "rollback", NAME, "--to", "9", "--yes")
    assert (unknown.returncode, "CAI-MODEL-004" in unknown.stderr) == (2, True)


def test_history(cluster: Cluster) -> None:
    rows = cluster.cai.json("model", "history", NAME)["revisions"]
    assert [(row["revision"], row["state"], row["repeats"]) for row in rows] == [
        (5, "active", 1),
        (4, "failed", None),
        (3, "failed", None),
        (2, "superseded", None),
        (1, "superseded", None),
    ]
    assert rows[1]["message"] == "its deploy was interrupted"
    (word, token) = rows[3]["changed"]
    assert word == {"key": "env.WORD", "before": "first", "after": "second"}
    assert token == {"key": "env.A_TOKEN", "before": "***", "after": None}
    cluster.delete(NAME)
    said = cluster.cai.ok("model", "history", NAME).stdout
    assert "env.WORD: first to second" in said
    assert "hush" not in said
    assert "deleted" in said
    assert cluster.cai("model", "history", "nobody").returncode == 2
    plan = cluster.cai.json("model", "rollback", NAME, "--dry-run")
    assert plan["actions"][0]["verb"] == "create"
