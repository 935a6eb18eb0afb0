"""The launcher on the stand-in platform: what `up` shows, waits for and undoes. No Ray runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cai_world import World
from fakes.cloudera.platform import GPU_REASON
from fakes.cloudera.workload import Workload
from support import until

from ray_serve_cai.cluster.launcher import Launcher, new_record
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.cluster import ClusterPlan, plan_cluster
from ray_serve_cai.plan.nodes import SILENT_SECONDS
from ray_serve_cai.providers.cai_record import add_workers, read_workers
from ray_serve_cai.spec import load_files

PATIENCE = 1.5


class Upping:
    """One `up` of a head in a worker and three further workers."""

    def __init__(self, world: World, folder: Path, **keys: Any) -> None:
        self.launcher = Launcher(world.state, world.provider)
        self.said: list[str] = []
        provider = {"type": "cai-workers", "head_in": "worker"}
        workers = [{"name": "gpu", "count": 3, "cpu": 1, "gpu": 1}]
        spec = {"kind": "Cluster", "name": "demo", "provider": provider, "workers": workers}
        path = folder / "demo.yaml"
        path.write_text(yaml.safe_dump(spec | keys))
        (self.document,) = load_files([path])
        # Seconds between polls; on the platform itself two.
        world.provider.list_seconds = 0.05

    def plan(self) -> ClusterPlan:
        return plan_cluster(
            self.document.cluster, self.launcher.facts(None, gateway_running=False)
        )

    def launch(self) -> None:
        record = new_record(self.document, None)
        self.launcher.state.save(record)
        self.launcher.launch(self.plan(), self.document.cluster, record)

    def report(self, *words: str) -> None:
        self.said.append(" ".join(words))

    def wait_for_nodes(self) -> None:
        """Until the end of patience, since no Ray lists them."""
        self.launcher.wait_for_nodes(
            self.plan().nodes, lambda rows: {}, time.monotonic() + PATIENCE, self.report
        )


@pytest.fixture
def upping(world: World, tmp_path: Path) -> Upping:
    return Upping(world, tmp_path)


def test_one_call_a_group(idle: World, upping: Upping) -> None:
    """The library makes one request of each worker out of it; what was there before is asked
    once for each call."""
    upping.launch()
    assert idle.platform.calls == {"launch": 4, "list": 2}
    assert len(idle.nodes()) == 4


def test_all_gpus_taken(idle: World, upping: Upping) -> None:
    idle.platform.knobs.gpus = 0
    upping.launch()
    with pytest.raises(ClusterError, match="not ready in time") as caught:
        upping.wait_for_nodes()
    assert (caught.value.code, caught.value.exit) == ("CAI-CLUSTER-006", 4)
    assert GPU_REASON in caught.value.message
    assert any(GPU_REASON in words for words in upping.said)


def test_refusal_is_undone(idle: World, upping: Upping) -> None:
    idle.platform.knobs.quota = 2
    with pytest.raises(ClusterError, match=r'2 of 3 workers of group "gpu" refused: Quota'):
        upping.launch()
    upping.launcher.undo(whole=True)
    assert {worker.stopped for worker in idle.platform.workers.values()} == {True}
    assert [path.name for path in idle.folder.iterdir()] == ["logs"]


@pytest.mark.parametrize("answer", [b'{"error": "no healthy upstream"}', b"<html>"])
def test_listing_without_answer_is_waited_out(idle: World, upping: Upping, answer: bytes) -> None:
    idle.platform.knobs.broken_answer = answer
    idle.platform.knobs.broken_lists = 1000
    upping.launch()
    with pytest.raises(ClusterError, match="the head was not up in") as caught:
        upping.launcher.wait_for_head(PATIENCE, upping.report)
    assert caught.value.code == "CAI-CLUSTER-006"
    assert any("list_workers" in words for words in upping.said)


def test_session_that_dies_in_the_middle(
    idle: World, upping: Upping, enter: Callable[[Workload], None]
) -> None:
    """Nothing of it stays, and `up` in another session begins anew."""
    idle.platform.knobs.gpus = 1
    upping.launch()
    first = list(idle.platform.workers.values())
    session = first[0].workload.master
    assert session is not None
    session.kill()
    until(lambda: not idle.platform.live(), 15, "the end of the workers, also of the pending ones")
    enter(idle.platform.session())
    long_ago = time.time() - SILENT_SECONDS - 1
    records = read_workers(idle.folder).items()
    add_workers(idle.folder, {key: replace(each, launched=long_ago) for key, each in records})
    verbs = {action.verb for action in upping.plan().actions if action.kind == "node"}
    assert verbs == {"replace"}
    idle.platform.knobs.gpus = None
    upping.launch()
    until(lambda: len(idle.nodes()) == 4 and running(idle), 10, "the new workers")
    live = idle.platform.live()
    assert len(live) == 4
    assert not any(worker in first for worker in live)


def running(world: World) -> bool:
    return {node.state for node in world.nodes().values()} == {"running"}


def test_undo_needs_no_listing(idle: World, upping: Upping) -> None:
    upping.launch()
    idle.platform.knobs.broken_lists = 1000
    upping.launcher.undo(whole=True)
    assert {worker.stopped for worker in idle.platform.workers.values()} == {True}


def test_worker_that_ends_at_once_shows_its_log(world: World, upping: Upping) -> None:
    world.platform.knobs.wanted = {"environment": {"CAI_RAY_TEMP": "/proc/none"}}
    upping.launch()
    words = r"node head ended while starting: the platform says failed\n(.*\n)*.*/proc/none"
    with pytest.raises(ClusterError, match=words) as caught:
        upping.launcher.wait_for_head(20, upping.report)
    assert caught.value.code == "CAI-CLUSTER-005"
