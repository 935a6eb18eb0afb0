"""Keeping a cluster whole for as long as the command that serves it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_result, wait_exponential

import ray_serve_cai
from ray_serve_cai.cluster.launcher import known_nodes
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import CaiError
from ray_serve_cai.serving.reach import gateway_runs

Report = Callable[..., None]

WATCH_SECONDS = 2.0
# A platform that refuses, or has no room, is asked again ever more seldom.
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


def supervise(name: str, *, report: Report, timeout: float) -> None:
    """Replace nodes that are lost and bring back what ran on them, until somebody takes the
    cluster down. `timeout` is that of one attempt, in seconds.

    What goes wrong meanwhile is reported and tried again: an application that gave up would take
    with it what still serves.
    """
    state = ClusterState(name)
    report("ready")
    while state.record_path.is_file():
        try:
            _look_once(state, report, timeout)
        except (CaiError, OSError) as error:
            # A shared folder or a platform that fails for a while is no reason to end what serves.
            report("unclear", f"trying again: {error}")
        time.sleep(WATCH_SECONDS)


def missing(state: ClusterState) -> str:
    """What of the cluster is not there, in words; empty when all is."""
    record = state.record()
    if record is None:
        return ""
    states = known_nodes(state, record.provider)
    lost = [f"node {node_id}" for node_id, word in states.items() if word == "lost"]
    if not lost and not gateway_runs(state, record):
        lost.append("the gateway")
    return ", ".join(lost)


def _look_once(state: ClusterState, report: Report, timeout: float) -> None:
    if what := missing(state):
        report("recovering", what)
        _recover(state, report, timeout)
    report("ready")


def _recover(state: ClusterState, report: Report, timeout: float) -> None:
    def again(call: RetryCallState) -> None:
        assert call.next_action is not None
        report("failed", f"to recover; trying again in {call.next_action.sleep:.0f} s")

    attempts = Retrying(
        retry=retry_if_result(lambda status: status != 0 and state.record_path.is_file()),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        before_sleep=again,
    )
    attempts(_one_attempt, state.name, timeout)


def _one_attempt(name: str, timeout: float) -> int:
    """`cai cluster recover` as a process of its own: nothing that Ray does there ends this one.
    Its words go where ours go."""
    command = [sys.executable, "-m", ray_serve_cai.__name__, "cluster", "recover", name]
    process = subprocess.Popen(
        [*command, "--timeout", f"{timeout:.0f}s"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        return process.wait()
    except BaseException:
        # Interrupted: it removes what it opened, and then the whole cluster goes down.
        process.terminate()
        process.wait()
        raise
