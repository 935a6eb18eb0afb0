"""Nodes as workers of the stand-in platform: their launch and their end."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cai_world import World
from fakes.cloudera.platform import Platform
from fakes.cloudera.workload import FOREVER, Workload
from support import until

from ray_serve_cai.errors import ClusterError, StateError
from ray_serve_cai.plan.nodes import HEAD, NodePlan
from ray_serve_cai.providers import cai_workers
from ray_serve_cai.providers.cai_library import find_library
from ray_serve_cai.providers.cai_workers import CaiWorkersProvider

Make = Callable[..., Platform]
Enter = Callable[[Workload], None]

SECRETS = {"CAI_API_KEY": "key-of-a-client", "HF_TOKEN": "hf_of-somebody"}


class TestLaunch:
    def test_every_worker_becomes_one_node(self, world: World) -> None:
        """In whatever order the platform answers, and with one launch call."""
        ids = world.launch(3)
        until(lambda: set(world.rows()) == set(ids), 30, "the agents' rows")
        assert {row["engine"] for row in world.rows().values()} == set(world.platform.workers)
        assert {node.state for node in world.nodes().values()} == {"running"}
        for node_id, row in world.rows().items():
            log = world.state.logs / f"node-{node_id}.log"
            assert os.readlink(log) == f"worker-{row['engine']}.log"

    def test_what_is_asked_for(self, idle: World) -> None:
        idle.launch(cpu=16, memory=64 * 2**30, gpu=2)
        asked = idle.worker().asked
        assert (asked["cpu"], asked["memory"], asked["nvidia_gpu"]) == (16, 64, 2)
        assert asked["env"]["CAI_HOME"] == os.environ["CAI_HOME"]

    def test_ids_of_the_platform(self, idle: World) -> None:
        idle.set(accelerator_label_id="3", resource_profile_id="p", resource_group_id="g")
        idle.launch(gpu=1)
        asked = idle.worker().asked
        assert asked["accelerator_label_id"] == "3"
        assert (asked["resource_profile_id"], asked["resource_group_id"]) == ("p", "g")

    def test_label_is_for_gpus(self, idle: World) -> None:
        idle.set(accelerator_label_id="3")
        idle.launch()
        assert idle.worker().asked["accelerator_label_id"] is None

    def test_accelerator_is_looked_up(self, idle: World) -> None:
        idle.provider = CaiWorkersProvider({"NVIDIA-L4": "11"}.__getitem__)
        idle.launch(gpu=1, accelerator="NVIDIA-L4")
        assert idle.worker().asked["accelerator_label_id"] == "11"

    def test_accelerator_that_is_not_known(self, world: World) -> None:
        with pytest.raises(ClusterError, match="NVIDIA-L4") as caught:
            world.launch(gpu=1, accelerator="NVIDIA-L4")
        # This platform knows the library's calls alone, and not the REST API's.
        assert caught.value.code == "CAI-PROVIDER-004"
        assert "accelerator_label_id" in str(caught.value.hint)
        assert not world.platform.workers

    def test_old_workbench(self, make_platform: Make, enter: Enter) -> None:
        platform = make_platform(variant="cdsw", signature="old")
        enter(platform.session())
        world = World(platform)
        world.launch(2)
        until(lambda: len(world.rows()) == 2, 30, "the agents' rows")

    def test_name_where_it_is_taken(self, make_platform: Make, enter: Enter) -> None:
        platform = make_platform(signature="named")
        enter(platform.session())
        world = World(platform)
        world.launch()
        assert world.worker().asked["name"] == "cai-demo-gpu"

    def test_outside(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CDSW_ENGINE_ID")
        with pytest.raises(ClusterError) as caught:
            world.launch()
        assert caught.value.code == "CAI-PROVIDER-001"

    def test_add_ons_of_the_platform_come_not_first(
        self, idle: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Their old copies of packages would shadow those of a virtual environment."""
        monkeypatch.setenv("PYTHONPATH", "/opt/cmladdons/python/site-packages:/home/cdsw/lib")
        idle.launch()
        assert "PYTHONPATH\"] = '/home/cdsw/lib'" in idle.worker().asked["code"]

    def test_record_that_cannot_be_written(self, idle: World) -> None:
        """Workers that nobody would find again are stopped at once."""
        (idle.folder / "workers.json").mkdir()
        with pytest.raises(StateError) as caught:
            idle.launch(2)
        assert caught.value.code == "CAI-STATE-001"
        assert {worker.stopped for worker in idle.platform.workers.values()} == {True}

    def test_no_secret_leaves(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        world.launch()
        until(world.rows, 30, "the agent's row")
        project, asked = world.platform.project, world.worker().asked
        shown = json.dumps(asked) + "".join(
            path.read_text() for path in world.state.logs.iterdir() if path.exists()
        )
        shown += world.worker().workload.console.read_text()
        shown += json.dumps(world.rows())
        token = world.state.token_path.read_text()
        for secret in (token, project.api_key, project.apiv2_key, *SECRETS.values()):
            assert secret not in shown
        assert str(world.folder) in asked["code"]


class TestRefusal:
    def test_two_of_three(self, idle: World) -> None:
        idle.platform.knobs.quota = 1
        words = r'2 of 3 workers of group "gpu" refused: Quota exceeded'
        with pytest.raises(ClusterError, match=words) as caught:
            idle.launch(3)
        assert (caught.value.code, caught.value.exit) == ("CAI-PROVIDER-002", 1)
        assert len(idle.provider.known(idle.folder)) == 1
        idle.terminate("gpu-0", "gpu-1", "gpu-2")
        until(lambda: not idle.platform.live(), 10, "the end of the accepted one")
        assert idle.nodes() == {}

    def test_half_made_engines_are_stopped(self, idle: World) -> None:
        idle.platform.knobs.refusals = 1
        idle.platform.knobs.refusal = {"k8sMessage": "exceeded quota: gpu", "engineId": ""}
        with pytest.raises(ClusterError, match="exceeded quota: gpu"):
            idle.launch(2)
        assert not idle.platform.half_made
        assert len(idle.platform.live()) == 1

    def test_stop_that_fails_hides_no_refusal(self, idle: World) -> None:
        idle.platform.knobs.refusals = 1
        idle.platform.knobs.refusal = {"message": "Quota exceeded", "engineId": ""}
        idle.platform.knobs.bad_stops = [500]
        with pytest.raises(ClusterError, match=r"Quota exceeded; some .* HTTP 500") as caught:
            idle.launch(2)
        assert caught.value.code == "CAI-PROVIDER-002"
        assert len(idle.platform.half_made) == 1
        idle.terminate("gpu-0", "gpu-1")
        assert not idle.platform.half_made

    def test_half_made_engine_of_a_launch_that_broke_off(self, idle: World) -> None:
        idle.platform.knobs.refusals = 1
        idle.platform.knobs.refusal = {"message": "Quota exceeded", "engineId": ""}
        (idle.state.logs / "node-gpu-0.log").mkdir()
        with pytest.raises(StateError, match=r"node-gpu-0\.log"):
            idle.launch(2)
        idle.terminate("gpu-0", "gpu-1")
        assert not idle.platform.half_made

    def test_call_that_broke_off_leaves_nothing(self, idle: World) -> None:
        """Three were made; workers of others that are there already stay."""
        find_library().launch(1, {"cpu": 0.5, "memory": 0.5, "code": FOREVER})
        idle.launch(1)
        other = World(idle.platform, "other")
        idle.platform.knobs.lost_posts = 1
        with pytest.raises(ClusterError) as caught:
            other.launch(3)
        assert caught.value.code == "CAI-PROVIDER-003"
        assert other.provider.known(other.folder) == []
        stopped = [worker.stopped for worker in idle.platform.workers.values()]
        assert stopped == [False, False, True, True, True]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt_during_the_call(
        self, idle: World, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It arrives when the workers are on record, for `terminate` to find them."""
        module = importlib.import_module("cml.workers_v1")
        launch = module.launch_workers

        def interrupted(**asked: object) -> object:
            os.kill(os.getpid(), number)
            return launch(**asked)

        interrupted.__signature__ = inspect.signature(launch)  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "launch_workers", interrupted)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                idle.launch(2)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert idle.provider.known(idle.folder) == ["gpu-0", "gpu-1"]


class TestEnd:
    def test_exit_status_and_last_words(self, world: World) -> None:
        """An agent that ends at once fails its worker, and its log is the node's."""
        environment = {"CAI_RAY_TEMP": "/proc/none"}
        world.context = replace(world.context, environment=environment)
        world.launch()
        until(lambda: world.node().state == "lost", 20, "the end of the worker")
        assert world.node().message == "the platform says failed"
        assert "/proc/none" in (world.state.logs / "node-gpu-0.log").read_text()
        assert "exit status 1" in world.worker().workload.console.read_text()

    def test_terminate_is_idempotent(self, idle: World) -> None:
        idle.launch(2)
        idle.terminate("gpu-0", "gpu-7")
        idle.terminate("gpu-0")
        assert idle.platform.calls["stop"] == 1
        until(lambda: len(idle.platform.live()) == 1, 10, "the end of one")
        assert set(idle.nodes()) == {"gpu-1"}

    def test_pending_worker_never_starts(self, idle: World) -> None:
        idle.platform.knobs.gpus = 0
        idle.launch(gpu=1)
        idle.terminate("gpu-0")
        idle.platform.knobs.gpus = 1
        assert not idle.platform.live()

    def test_other_cluster_of_the_project_stays(self, idle: World) -> None:
        other = World(idle.platform, "other")
        idle.launch(2)
        other.launch(1)
        idle.terminate("gpu-0", "gpu-1")
        until(lambda: len(idle.platform.live()) == 1, 10, "the end of two")
        assert set(other.nodes()) == {"gpu-0"}

    def test_ended_node_leaves_no_row(self, world: World) -> None:
        world.launch()
        until(world.rows, 30, "the agent's row")
        world.terminate("gpu-0")
        world.state.forget_node("gpu-0")
        until(lambda: not world.platform.live(), 10, "its end")
        assert world.rows() == {}

    def test_session_ends(self, world: World) -> None:
        """Its workers go with it, agents and all."""
        world.launch(2)
        until(lambda: len(world.rows()) == 2, 30, "the agents' rows")
        workers = [worker.workload for worker in world.platform.workers.values()]
        master = workers[0].master
        assert master is not None
        master.kill()
        until(lambda: not world.platform.live(), 10, "the end of the workers")
        pids = [row["pid"] for row in world.rows().values()]
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10, "the agents")


class TestHead:
    PLAN = NodePlan(HEAD, "head", HEAD, 0)

    def test_in_the_launcher(self, world: World) -> None:
        # So that the agent does not get as far as Ray.
        environment = {"CAI_RAY_TEMP": "/proc/none"}
        world.provider.launch([self.PLAN], replace(world.context, environment=environment))
        assert world.provider.known(world.folder) == [HEAD]
        assert not world.platform.workers
        world.terminate(HEAD)
        assert world.nodes() == {}
        assert world.platform.calls["list"] == 0

    def test_in_a_worker(self, idle: World) -> None:
        idle.set(head_in="worker")
        idle.provider.launch([replace(self.PLAN, memory=2**30)], idle.context)
        assert idle.worker().asked["cpu"] == cai_workers.LEAST_CPU
        until(lambda: idle.nodes()[HEAD].state == "running", 10, "the head's worker")
