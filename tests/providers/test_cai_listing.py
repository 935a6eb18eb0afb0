"""What the provider makes of the platform's listing, and of the folder where it gets none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from cai_world import World
from fakes.cloudera.platform import GPU_REASON
from fakes.cloudera.workload import Workload
from support import until

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import ASSIGNMENTS, SILENT_SECONDS
from ray_serve_cai.providers import cai_states
from ray_serve_cai.providers.base import Node
from ray_serve_cai.providers.cai_record import WorkerRecord, add_workers, read_workers

Enter = Callable[[Workload], None]


class TestList:
    def test_one_call_for_all(self, idle: World) -> None:
        idle.launch(5)
        before = idle.platform.calls["list"]
        assert len(idle.nodes()) == 5
        assert idle.platform.calls["list"] == before + 1

    def test_no_gpu_free(self, idle: World) -> None:
        idle.platform.knobs.gpus = 0
        idle.launch(gpu=1)
        assert idle.node() == Node(
            "gpu-0", "pending", f"scheduling; {GPU_REASON}; it asks for 1 GPU"
        )
        idle.platform.knobs.gpus = 1
        until(lambda: idle.node().state == "running", 10, "its start")

    def test_pulling_the_image(self, idle: World) -> None:
        idle.platform.knobs.image_pull = 3600
        idle.launch()
        until(lambda: idle.node() == Node("gpu-0", "pending", "starting"), 10, "the pull")

    def test_late_address(self, idle: World) -> None:
        idle.platform.knobs.late_ip = 3600
        idle.launch()
        words = "running, without an address yet"
        until(lambda: idle.node() == Node("gpu-0", "pending", words), 10, "its start")
        idle.platform.knobs.late_ip = 0
        until(lambda: idle.node().state == "running", 10, "its address")

    @pytest.mark.parametrize("knob", ["absent", "late", "word"])
    def test_agent_that_has_spoken_runs(self, world: World, knob: str) -> None:
        """Whatever the listing lacks or calls it, and however long."""
        knobs = world.platform.knobs
        knobs.absent = ("ip_address", "created_at") if knob == "absent" else ()
        knobs.late_ip = 3600 if knob == "late" else 0
        knobs.status_words = {"running": "ENGINE_WARM"} if knob == "word" else {}
        world.set(launch_timeout=0.001)
        world.launch()
        until(world.rows, 30, "the agent's row")
        assert world.node() == Node("gpu-0", "running")

    def test_unknown_word_is_not_settled(self, idle: World) -> None:
        idle.platform.knobs.status_words = {"running": "Queueing"}
        idle.launch()
        until(lambda: idle.node() == Node("gpu-0", "pending", "queueing"), 10, "the word")

    def test_pending_for_long(self, idle: World) -> None:
        """How long to wait is for the launcher to say, which may be told more than the spec."""
        idle.platform.knobs.schedule = 3600
        idle.set(launch_timeout=0.001)
        idle.launch()
        (record,) = read_workers(idle.folder).values()
        add_workers(idle.folder, {"gpu-0": replace(record, launched=0)})
        assert idle.node() == Node("gpu-0", "pending", "scheduling")

    @pytest.mark.parametrize("word", ["failed", "stopped", "succeeded", "timedout", "stopping"])
    def test_ended(self, idle: World, word: str) -> None:
        idle.platform.knobs.status_words = {"running": word}
        idle.launch()
        until(lambda: idle.node() == Node("gpu-0", "lost", f"the platform says {word}"), 10, word)

    def test_worker_that_dies(self, world: World) -> None:
        world.platform.knobs.dies_after = 0.5
        world.launch()
        until(lambda: world.node() == Node("gpu-0", "lost", "the platform says failed"), 20, "it")

    def test_not_listed(self, idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
        idle.launch()
        idle.platform.workers.clear()
        assert idle.node() == Node("gpu-0", "pending", "the platform does not list it yet")
        monkeypatch.setattr(cai_states, "GRACE_SECONDS", 0)
        assert idle.node() == Node("gpu-0", "lost", "the platform does not list it any more")

    def test_launched_by_a_command_that_died(
        self, idle: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before it said which nodes they are: they wait, and cost, until the next command."""
        idle.launch(2)
        for path in (idle.folder / ASSIGNMENTS).iterdir():
            path.unlink()
        until(lambda: idle.nodes()["gpu-0"].state == "running", 10, "the platform's word")
        monkeypatch.setattr(cai_states, "GRACE_SECONDS", 0)
        assert {node.state for node in idle.nodes().values()} == {"lost"}
        assert "died before" in idle.nodes()["gpu-0"].message

    def test_no_answer(self, idle: World) -> None:
        idle.launch()
        idle.platform.knobs.broken_lists = 1
        with pytest.raises(ClusterError, match="upstream connect error") as caught:
            idle.nodes()
        assert caught.value.code == "CAI-PROVIDER-003"
        assert set(idle.nodes()) == {"gpu-0"}

    def test_a_thousand_nodes(self, idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the record costs; the platform's own answer is not in it."""
        records = {
            f"gpu-{n}": WorkerRecord(f"e{n}", "elsewhere", time.time()) for n in range(1000)
        }
        add_workers(idle.folder, records)
        begun = time.process_time()
        assert len(idle.nodes()) == 1000
        assert time.process_time() - begun < 0.5


class TestElsewhere:
    """A command in another workload of the project, or in none: it sees the folder alone."""

    @pytest.fixture(params=["other session", "no workload"])
    def away(
        self,
        request: pytest.FixtureRequest,
        world: World,
        enter: Enter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> World:
        world.launch()
        until(world.rows, 30, "the agent's row")
        if request.param == "no workload":
            monkeypatch.delenv("CDSW_ENGINE_ID")
        else:
            enter(world.platform.session())
        world.platform.calls.clear()
        return world

    def test_signs_of_life(self, away: World) -> None:
        assert away.node() == Node("gpu-0", "running")
        row, long_ago = away.folder / "nodes" / "gpu-0.json", time.time() - 3600
        os.utime(row, (long_ago, long_ago))
        assert away.node().state == "lost"
        assert "no sign of its agent for 36" in away.node().message
        assert not away.platform.calls

    def test_live_workers_are_not_ours_to_stop(self, away: World) -> None:
        owner = next(iter(away.platform.workers.values())).workload.master
        assert owner is not None
        with pytest.raises(ClusterError, match=f"gpu-0: launched by workload {owner.id}") as e:
            away.terminate("gpu-0")
        assert e.value.code == "CAI-PROVIDER-005"
        assert set(away.nodes()) == {"gpu-0"}
        beyond = away.provider.out_of_reach(away.folder, ["gpu-0", "gpu-1"])
        assert beyond == {"gpu-0": f"launched by workload {owner.id}"}

    def test_dead_workers_are_forgotten(self, away: World) -> None:
        row, long_ago = away.folder / "nodes" / "gpu-0.json", time.time() - 3600
        os.utime(row, (long_ago, long_ago))
        away.terminate("gpu-0")
        assert away.nodes() == {}

    def test_not_started_yet(self, away: World) -> None:
        away.state.forget_node("gpu-0")
        assert away.node().state == "pending"

    @pytest.mark.parametrize(("other_lives", "state"), [(True, "pending"), (False, "lost")])
    def test_pending_for_long(self, away: World, other_lives: bool, state: str) -> None:
        """A worker that waits for a GPU has gone with its launcher, if nothing of it lives."""
        (record,) = read_workers(away.folder).values()
        before = time.time() - SILENT_SECONDS - 1
        add_workers(away.folder, {"gpu-1": replace(record, engine="e1", launched=before)})
        if not other_lives:
            os.utime(away.folder / "nodes" / "gpu-0.json", (before, before))
        assert away.nodes()["gpu-1"].state == state
