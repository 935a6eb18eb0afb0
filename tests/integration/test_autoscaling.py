"""Replicas follow the load, down to none and back, on one real cluster with the echo engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from support import Asker, Cai, Cluster, command_line, short_folder, until

pytestmark = pytest.mark.ray

KEY = "sk-0123456789abcdef"
SLOW = {"type": "echo", "args": {"tokens_per_second": 20}}
SMALL = {"cpu": 0.5}
# `idle` goes to zero as soon as it may, `wide` has room to grow.
IDLE = {"min": 0, "max": 1, "idle_after": "1s", "hold_timeout": "60s", "queue": 3}
WIDE = {"min": 1, "max": 3, "target_ongoing_requests": 2, "cool_down": "3s"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    gateway = {"port": "auto", "api_keys": ["${CAI_API_KEY}"], "max_concurrent": 40, "queue": 20}
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_API_KEY": KEY})
        try:
            made = Cluster.up(cai, "scales", KEY, gateway=gateway)
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


def post(
    cluster: Cluster, model: str, tokens: int = 4, timeout: float = 90, **options: Any
) -> httpx.Response:
    body = {"model": model, "prompt": "one two three", "max_tokens": tokens, **options}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{cluster.url}/v1/completions"
    return httpx.post(url, json=body, headers=headers, timeout=timeout, trust_env=False)


def rules(cluster: Cluster) -> dict[str, int]:
    """How many replicas each model is to have, without the cost of a command."""
    data = json.loads((cluster.folder / "gateway" / "scaling.json").read_text())
    return {row["model"]: row["count"] for row in data["rules"]}


def ready(cluster: Cluster, model: str) -> int:
    data = json.loads((cluster.folder / "gateway" / "replicas.json").read_text())
    return sum((r["model"], r["phase"]) == (model, "ready") for r in data["replicas"])


def becomes_idle(cluster: Cluster, model: str) -> None:
    until(lambda: rules(cluster)[model] == 0 and not ready(cluster, model), 40, "no replica")


class TestFollowingTheLoad:
    def test_up_within_ten_seconds_and_down_without_a_failed_request(
        self, cluster: Cluster
    ) -> None:
        plan = cluster.cai.write("wide.yaml", spec("wide", engine=SLOW, replicas=WIDE))
        shown = cluster.cai.json("model", "deploy", plan)
        assert "1 to 3 replicas, 2 requests each" in shown["actions"][0]["detail"]
        with Asker(cluster.client(), "wide", threads=6) as asker:
            until(lambda: rules(cluster)["wide"] == 3, 10, "three replicas wanted")
            until(lambda: ready(cluster, "wide") == 3, 60, "three replicas ready")
            asker.wait_for(6)
        with Asker(cluster.client(), "wide", threads=1) as asker:
            until(lambda: rules(cluster)["wide"] == 1, 20, "one replica again")
            until(lambda: ready(cluster, "wide") == 1, 30, "the others' end")
            asker.wait_for(2)
        assert asker.failures == []

    def test_row_shows_the_range(self, cluster: Cluster) -> None:
        row = cluster.model("wide")
        assert row["replicas"] == {"ready": 1, "wanted": 1, "min": 1, "max": 3}
        assert "1/1 (1 to 3)" in cluster.cai.ok("model", "list").stdout

    def test_other_range_is_taken_at_once(self, cluster: Cluster) -> None:
        path = cluster.cai.folder / "wide.yaml"
        assert cluster.cai.json("model", "deploy", path)["actions"] == []
        pid = cluster.model("wide")["instances"][0]["pid"]
        done = cluster.cai.json("model", "deploy", path, "--set", "replicas.min=2")
        assert [action["verb"] for action in done["actions"]] == ["scale"]
        assert rules(cluster)["wide"] == 2
        assert pid in {it["pid"] for it in cluster.model("wide")["instances"]}

    def test_scale_by_hand_ends_following(self, cluster: Cluster) -> None:
        cluster.cai.ok("model", "scale", "wide", "1")
        until(lambda: ready(cluster, "wide") == 1, 30, "one replica")
        assert cluster.model("wide")["replicas"] == {"ready": 1, "wanted": 1}
        cluster.cai.ok("model", "scale", "wide", "0")
        reply = until(lambda: is_called(post(cluster, "wide"), "model_idle"), 20, "the stand-in")
        assert reply.status_code == 503
        assert "Retry-After" not in reply.headers
        assert cluster.model("wide")["state"] == "idle"
        cluster.delete("wide")
        until(lambda: is_status(post(cluster, "wide"), 404), 15, "no route")


class TestScaleToZero:
    def test_request_that_waits_is_answered(self, cluster: Cluster) -> None:
        cluster.deploy_ok("calm", resources=SMALL, replicas=IDLE)
        becomes_idle(cluster, "calm")
        assert cluster.model("calm")["state"] == "idle"
        with ThreadPoolExecutor(2) as pool:
            plain = pool.submit(post, cluster, "calm")
            text = pool.submit(stream, cluster, "calm", 40)
            assert plain.result().json()["usage"]["completion_tokens"] == 4
            assert text.result().count("data:") >= 40
            assert text.result().rstrip().endswith("[DONE]")

    def test_unchanged_file_does_not_wake_it(self, cluster: Cluster) -> None:
        becomes_idle(cluster, "calm")
        path = cluster.cai.folder / "model-calm.yaml"
        assert cluster.cai.json("model", "deploy", path)["actions"] == []
        assert rules(cluster)["calm"] == 0

    def test_queue_is_bounded(self, cluster: Cluster) -> None:
        """A slow start: three wait, further ones are told when to come again; one that waits
        longer than it may is told so."""
        limits = {**IDLE, "hold_timeout": "3s"}
        engine = {"type": "echo", "args": {"start_delay": 6}}
        cluster.deploy_ok("late", engine=engine, resources=SMALL, replicas=limits)
        becomes_idle(cluster, "late")
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: post(cluster, "late"), range(8)))
        codes = [(r.status_code, r.json()["error"]["code"]) for r in replies]
        assert set(codes) == {(429, "model_queue_full"), (503, "model_hold_timeout")}, codes
        assert all(int(reply.headers["Retry-After"]) > 0 for reply in replies)

    def test_refusing(self, cluster: Cluster) -> None:
        """Woken by what it refuses; the same revision, only its range is another."""
        limits = {**IDLE, "when_empty": "refuse", "idle_after": "5s"}
        engine = {"type": "echo", "args": {"start_delay": 6}}
        becomes_idle(cluster, "late")
        cluster.deploy_ok("late", engine=engine, resources=SMALL, replicas=limits)
        reply = post(cluster, "late")
        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) > 0
        assert reply.json()["error"]["code"] == "model_starting"
        until(lambda: is_status(post(cluster, "late"), 200), 60, "the replica it has woken")
        cluster.delete("late")

    def test_actor_killed_while_idle(self, cluster: Cluster) -> None:
        """Nothing wakes but a request."""
        becomes_idle(cluster, "calm")
        (smg,) = cluster.commands("smg::router")
        actor = smg.parent()
        assert actor is not None
        assert "Gateway" in command_line(actor)
        actor.kill()
        until(lambda: not psutil.pid_exists(smg.pid), 5, "the end of SMG with its actor")
        until(lambda: "calm" in models(cluster), 40, "the gateway's return with the stand-in")
        assert rules(cluster)["calm"] == 0
        assert not ready(cluster, "calm")
        assert post(cluster, "calm").status_code == 200

    def test_stream_outlives_the_stand_ins_place(self, cluster: Cluster) -> None:
        """It came while no replica was there; that its model then has one does not end it."""
        limits = {**IDLE, "idle_after": "1s"}
        cluster.deploy_ok("calm", engine=SLOW, resources=SMALL, replicas=limits)
        becomes_idle(cluster, "calm")
        with ThreadPoolExecutor(1) as pool:
            text = pool.submit(stream, cluster, "calm", 100)
            until(lambda: ready(cluster, "calm"), 120, "a replica")
            until(lambda: is_status(post(cluster, "calm", 2), 200), 15, "another's answer")
            assert text.result().count("data:") >= 100

    def test_client_that_leaves_frees_its_place(self, cluster: Cluster) -> None:
        becomes_idle(cluster, "calm")
        with pytest.raises(httpx.ReadTimeout):
            pytest.fail(f"answered: {post(cluster, 'calm', 1000, timeout=0.5).text}")
        # Left before a replica was there, it never reaches the engine, which then falls idle.
        becomes_idle(cluster, "calm")
        cluster.delete("calm")


class TestOverload:
    def test_beyond_the_queue_429_with_retry_after(self, cluster: Cluster) -> None:
        """40 in flight and 20 waiting, of 300 at once."""
        cluster.deploy_ok("busy", engine=SLOW, resources=SMALL)
        (smg,) = cluster.commands("smg::router")
        with ThreadPoolExecutor(300) as pool:
            replies = list(pool.map(lambda _: post(cluster, "busy", 100), range(300)))
        refused = [reply for reply in replies if reply.status_code == 429]
        assert {reply.status_code for reply in replies} == {200, 429}
        assert len(refused) >= 50
        assert all(int(reply.headers["Retry-After"]) > 0 for reply in refused)
        assert {reply.json()["error"]["type"] for reply in refused} == {"rate_limit_error"}
        assert smg.memory_info().rss < 500 * 2**20
        assert post(cluster, "busy").status_code == 200


def spec(name: str, **keys: Any) -> dict[str, Any]:
    from support import echo_spec

    return echo_spec(name, resources=SMALL, **keys)


def is_status(reply: httpx.Response, status: int) -> httpx.Response | None:
    return reply if reply.status_code == status else None


def is_called(reply: httpx.Response, code: str) -> httpx.Response | None:
    """The answer where it is an error of that code."""
    return reply if reply.json().get("error", {}).get("code") == code else None


def models(cluster: Cluster) -> set[str]:
    try:
        return {model.id for model in cluster.client().models.list()}
    except Exception:  # noqa: BLE001 - the gateway is away for a moment
        return set()


def stream(cluster: Cluster, model: str, tokens: int) -> str:
    return post(cluster, model, tokens, stream=True).text
