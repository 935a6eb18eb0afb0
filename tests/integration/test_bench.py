"""`cai bench` on a real cluster with the echo engine."""

from __future__ import annotations

from typing import Any

import pytest
from support import Cluster

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _model(echo_cluster: Cluster) -> None:
    echo_cluster.deploy_ok("echo")


def bench(cluster: Cluster, *words: str) -> dict[str, Any]:
    return cluster.cai.json("bench", "echo", "--cluster", cluster.name, *words)


def test_load_is_measured(echo_cluster: Cluster) -> None:
    words = ("--clients", "2", "--requests", "6", "--rounds", "2", "--prompt-tokens", "40")
    data = bench(echo_cluster, *words)
    (row,) = data["results"]
    assert (row["clients"], row["answered"], row["failed"]) == (2, 12, 0), row["first_failure"]
    assert row["prompt_tokens"] == pytest.approx(40, abs=4)
    assert row["tokens_per_answer"] > 1
    assert 0 < row["ttft_p50_ms"] <= row["ttft_p99_ms"] <= row["latency_p99_ms"]
    cpu = row["cpu_s_per_1000_tokens"]
    assert {"gateway", "engine host", "replica", "ray", "load generator"} == set(cpu)
    assert cpu["gateway"] > 0
    assert cpu["engine host"] > 0
    outside = sum(cpu[group] for group in ("gateway", "engine host", "replica"))
    assert row["cpu_s_outside_engine_per_1000_tokens"] == pytest.approx(outside, abs=0.01)
    assert all(len(held) == 3 for held in row["memory_mib"].values())


def test_whole_answers_for_a_time(echo_cluster: Cluster) -> None:
    data = bench(
        echo_cluster, "--clients", "1", "--duration", "1s", "--rounds", "1", "--no-stream"
    )
    (row,) = data["results"]
    assert (data["duration_s"], data["requests"], data["stream"]) == (1.0, None, False)
    assert row["answered"] > 1
    assert row["ttft_p50_ms"] is None
    assert row["latency_p50_ms"] > 0


def test_table(echo_cluster: Cluster) -> None:
    words = ("--clients", "1", "--requests", "2", "--rounds", "1")
    done = echo_cluster.cai.ok("bench", "echo", "--cluster", echo_cluster.name, *words)
    for word in (
        "REQ/S",
        "GAP P50 MS",
        "CPU-seconds for 1,000 tokens",
        "Memory in MiB",
        "GATEWAY",
    ):
        assert word in done.stdout


def test_what_it_refuses(echo_cluster: Cluster) -> None:
    both = echo_cluster.cai(
        "bench", "echo", "--cluster", echo_cluster.name, "--requests", "5", "--duration", "1s"
    )
    assert both.returncode == 2
    unknown = echo_cluster.cai("bench", "nobody", "--cluster", echo_cluster.name)
    assert unknown.returncode == 2
    engine = echo_cluster.cai("bench", "echo", "--cluster", echo_cluster.name, "--against-engine")
    assert "CAI-ENGINE-003" in engine.stderr
