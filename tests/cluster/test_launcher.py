"""The launcher and `up` against nodes in memory that fail in every way. No Ray is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.provider import FakeProvider, refusal

from ray_serve_cai.cluster.launcher import Launcher, new_record
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.cluster.watch import node_states
from ray_serve_cai.errors import CaiError, ClusterError
from ray_serve_cai.plan.cluster import ClusterPlan, plan_cluster
from ray_serve_cai.spec import Document, load_files


class World:
    """A cluster `demo` whose nodes live in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.provider = FakeProvider()
        self.state = ClusterState("demo")
        self.launcher = Launcher(self.state, self.provider)

    def document(self, workers: int = 0, **keys: Any) -> Document:
        groups = [{"name": "gpu", "count": workers}]
        spec = {"kind": "Cluster", "name": "demo", "workers": groups, "gateway": {"port": "auto"}}
        path = self.folder / "demo.yaml"
        path.write_text(yaml.safe_dump(spec | {"ray": {"port": "auto"}} | keys))
        return load_files([path])[0]

    def plan(self, workers: int = 0) -> ClusterPlan:
        facts = self.launcher.facts(None, gateway_running=True)
        return plan_cluster(self.document(workers).cluster, facts)

    def launch(self, workers: int = 0) -> list[str]:
        document, plan = self.document(workers), self.plan(workers)
        self.state.create()
        record = new_record(document, self.state.record())
        self.state.save(record)
        launcher = Launcher(self.state, self.provider)
        launcher.launch(plan, document.cluster, record)
        return launcher.opened


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def silent(*_: object) -> None:
    """Report nothing."""


def test_ray_folder_is_short_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts Unix sockets in it, whose paths end at 107 bytes."""
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567_890)
    record = new_record(world.document(name="a" * 40), None)
    of_a_worker = "/abc/session_2026-11-21_12-00-00_123456_4194304/sockets/plasma_store"
    assert len(record.temp_folder + of_a_worker) <= 107


class TestReconcile:
    def test_up_twice_is_up_once(self, world: World) -> None:
        assert world.launch(workers=2) == ["head", "gpu-0", "gpu-1"]
        assert world.launch(workers=2) == []
        assert world.provider.launched == ["head", "gpu-0", "gpu-1"]

    def test_lost_node_is_launched_again(self, world: World) -> None:
        world.launch(workers=2)
        world.provider.lose("gpu-1")
        assert node_states(world.state, world.provider)["gpu-1"] == "lost"
        assert world.launch(workers=2) == ["gpu-1"]

    def test_lost_head_takes_its_workers_along(self, world: World) -> None:
        world.launch(workers=2)
        world.provider.lose("head")
        assert world.launch(workers=2) == ["head", "gpu-0", "gpu-1"]
        assert world.provider.terminated == ["gpu-0", "gpu-1"]

    def test_surplus_is_ended(self, world: World) -> None:
        world.launch(workers=2)
        assert world.launch(workers=1) == []
        assert world.provider.terminated == ["gpu-1"]
        assert sorted(world.state.node_rows()) == ["gpu-0", "head"]

    def test_node_that_only_the_provider_knows(self, world: World) -> None:
        """What an `up` leaves that was killed before the agent wrote its row."""
        world.launch(workers=1)
        world.state.forget_node("gpu-0")
        assert node_states(world.state, world.provider) == {"head": "ready", "gpu-0": "pending"}
        assert world.launch(workers=1) == []

    def test_environment_of_a_node(self, world: World) -> None:
        spec = world.document(ray={"env": {"MINE": "1"}, "port": "auto"}).cluster
        record = ClusterRecord("demo", "local", "", 1, {}, "", {}, 0, temp_folder="/tmp/x")
        context = world.launcher._context(spec, record, 7)
        # Values of the spec may be secret: the agent reads them from a file.
        assert "MINE" not in context.environment
        assert context.environment["RAY_AUTH_TOKEN_PATH"] == str(world.state.token_path)
        assert context.environment["CAI_RAY_TEMP"] == "/tmp/x"
        assert float(context.environment["CAI_NODE_PATIENCE"]) == 7

    def test_patience_of_a_node(self, world: World) -> None:
        """The longer of the two: nodes may be kept beyond the time-out."""
        spec = world.document(provider={"type": "cai-workers", "launch_timeout": "20m"}).cluster
        record = ClusterRecord("demo", "cai-workers", "", 1, {}, "", {}, 0)
        for timeout, told in ((60, 1200), (3600, 3600)):
            context = world.launcher._context(spec, record, timeout)
            assert float(context.environment["CAI_NODE_PATIENCE"]) == told


class TestWaiting:
    def test_head(self, world: World) -> None:
        world.launch()
        assert world.launcher.wait_for_head(1, silent) == "127.0.0.1:1"

    def test_head_that_ends(self, world: World) -> None:
        world.provider.fates["head"] = "dies"
        world.launch()
        with pytest.raises(ClusterError, match="head ended while starting\nthe last words") as e:
            world.launcher.wait_for_head(60, silent)
        assert e.value.code == "CAI-CLUSTER-005"

    def test_head_that_ends_before_its_first_word(self, world: World) -> None:
        world.provider.fates["head"] = "dies-unheard"
        world.launch()
        with pytest.raises(ClusterError) as caught:
            world.launcher.wait_for_head(2, silent)
        assert caught.value.code == "CAI-CLUSTER-005"

    def test_head_that_hangs(self, world: World) -> None:
        world.provider.fates["head"] = "hangs"
        world.launch()
        with pytest.raises(ClusterError, match="head was not up") as caught:
            world.launcher.wait_for_head(0, silent)
        assert caught.value.exit == 4

    @pytest.mark.parametrize("fate", ["dies", "dies-unheard"])
    def test_worker_that_ends(self, world: World, fate: Any) -> None:
        world.provider.fates["gpu-0"] = fate
        world.launch(workers=1)
        with pytest.raises(ClusterError, match="gpu-0 ended while starting") as caught:
            self.wait(world, {"head": {}}, seconds=2)
        assert caught.value.code == "CAI-CLUSTER-005"

    def test_worker_that_never_becomes_alive(self, world: World) -> None:
        world.launch(workers=1)
        with pytest.raises(ClusterError, match="not ready in time: gpu-0") as caught:
            self.wait(world, {"head": {}}, seconds=0)
        assert caught.value.exit == 4

    def test_all_alive(self, world: World) -> None:
        world.launch(workers=1)
        self.wait(world, {"head": {}, "gpu-0": {}}, seconds=0)

    def test_predecessor_is_not_the_node(self, world: World) -> None:
        """Ray counts a killed node among the living for some seconds."""
        world.launch(workers=1)
        world.state.forget_node("gpu-0")
        with pytest.raises(ClusterError, match="not ready in time: gpu-0"):
            self.wait(world, {"head": {}, "gpu-0": {}}, seconds=0)

    def wait(self, world: World, alive: Mapping[str, Any], seconds: float) -> None:
        import time

        deadline = time.monotonic() + seconds
        nodes = world.document(workers=1).cluster
        wanted = plan_cluster(nodes, world.launcher.facts(None, gateway_running=True)).nodes
        world.launcher.wait_for_nodes(wanted, lambda _: alive, deadline, silent)


class TestRemove:
    def test_all_that_the_provider_has(self, world: World) -> None:
        world.launch(workers=1)
        world.launcher.remove()
        assert world.provider.there == {}
        assert not world.state.record_path.exists()

    def test_half_of_them_gone_already(self, world: World) -> None:
        world.launch(workers=2)
        world.provider.lose("head")
        world.provider.lose("gpu-1")
        world.launcher.remove()
        assert world.provider.terminated == ["gpu-0"]
        assert not world.state.record_path.exists()

    def test_nothing_there(self, world: World) -> None:
        world.launcher.remove()
        assert world.provider.terminated == []

    def test_damaged_record(self, world: World) -> None:
        world.launch()
        world.state.record_path.write_text("{")
        world.launcher.remove()
        assert world.provider.there == {}

    def test_failing_end_keeps_the_state(self, world: World) -> None:
        """So that the next `down` still knows what there is to end."""
        world.launch(workers=1)
        world.provider.stuck["gpu-0"] = refusal("gpu-0")
        with pytest.raises(ClusterError):
            world.launcher.remove()
        assert world.state.record_path.exists()


class TestFailingUp:
    """The whole of `up`, as far as it goes without Ray."""

    @pytest.fixture(autouse=True)
    def _local_is_in_memory(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "ray_serve_cai.cluster.launcher.get_provider", lambda name: world.provider
        )

    def up(self, world: World, workers: int = 0, timeout: float = 5, **options: Any) -> None:
        from ray_serve_cai.serving.lifecycle import up

        up(world.document(workers), report=silent, timeout=timeout, **options)

    def fail(self, world: World, code: str, **options: Any) -> CaiError:
        with pytest.raises(CaiError) as caught:
            self.up(world, **options)
        assert caught.value.code == code
        return caught.value

    def assert_no_trace(self, world: World) -> None:
        assert world.provider.there == {}
        left = [path.name for path in world.state.folder.glob("*")]
        assert left in ([], ["logs"])

    def test_second_node_is_refused(self, world: World) -> None:
        world.provider.refused["gpu-0"] = refusal("gpu-0")
        error = self.fail(world, "CAI-CLUSTER-005", workers=2)
        assert error.message == "the platform refused gpu-0"
        assert world.provider.launched == ["head", "gpu-0"]
        self.assert_no_trace(world)

    def test_head_ends(self, world: World) -> None:
        world.provider.fates["head"] = "dies"
        error = self.fail(world, "CAI-CLUSTER-005", workers=1)
        assert "the last words" in error.message
        self.assert_no_trace(world)

    def test_head_in_time_out(self, world: World) -> None:
        world.provider.fates["head"] = "hangs"
        assert self.fail(world, "CAI-CLUSTER-006", timeout=0).exit == 4
        self.assert_no_trace(world)

    def test_keep_leaves_what_was_opened(self, world: World) -> None:
        world.provider.fates["head"] = "hangs"
        self.fail(world, "CAI-CLUSTER-006", timeout=0, keep=True)
        assert list(world.provider.there) == ["head"]
        assert world.state.record_path.exists()

    def test_failed_change_removes_only_what_it_opened(self, world: World) -> None:
        self.up(world, wait=False)
        before = world.state.existing_record()
        world.provider.refused["gpu-1"] = refusal("gpu-1")
        self.fail(world, "CAI-CLUSTER-005", workers=2)
        assert list(world.provider.there) == ["head"]
        assert world.state.existing_record() == before
        assert sorted(world.state.node_rows()) == ["head"]

    def test_failed_change_brings_the_values_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ray_serve_cai.serving.lifecycle import up

        monkeypatch.setenv("OLD", "sk-1")
        monkeypatch.setenv("NEW", "sk-1")
        keys = {name: {"port": "auto", "api_keys": [f"${{{name}}}"]} for name in ("OLD", "NEW")}
        up(world.document(gateway=keys["OLD"]), report=silent, timeout=5, wait=False)
        world.provider.refused["gpu-0"] = refusal("gpu-0")
        with pytest.raises(ClusterError):
            up(world.document(1, gateway=keys["NEW"]), report=silent, timeout=5)
        document = world.state.document(world.state.existing_record())
        assert document.cluster.gateway.api_keys == ("sk-1",)

    def test_failing_removal_does_not_hide_the_cause(self, world: World) -> None:
        world.provider.refused["gpu-0"] = refusal("gpu-0")
        world.provider.stuck["head"] = OSError("the platform is away")
        error = self.fail(world, "CAI-CLUSTER-005", workers=1)
        assert error.message == "the platform refused gpu-0"
        assert world.state.record_path.exists(), "the next `down` must find the head"

    def test_interrupt(self, world: World) -> None:
        world.provider.refused["gpu-0"] = KeyboardInterrupt()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            self.up(world, workers=1)
        self.assert_no_trace(world)

    def test_taken_port_opens_nothing(self, world: World) -> None:
        import socket

        from ray_serve_cai.serving.lifecycle import up

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            document = world.document(gateway={"port": port})
            with pytest.raises(ClusterError, match=rf"port {port} \(gateway.port\)") as caught:
                up(document, report=silent, timeout=5)
        assert caught.value.code == "CAI-CLUSTER-004"
        assert world.provider.launched == []
        assert not world.state.folder.exists()
