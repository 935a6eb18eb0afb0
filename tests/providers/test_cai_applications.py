"""Nodes as applications of the stand-in: real node agents, workers whose head never comes."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fakes.cloudera.answers import SUBDOMAIN
from fakes.cloudera.applications import RUNTIME
from fakes.cloudera.rest import Fault, Workbench
from support import until

from ray_serve_cai.cluster.launcher import Launcher
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ClusterError, StateError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers import cai_applications
from ray_serve_cai.providers.base import LaunchContext
from ray_serve_cai.providers.cai_applications import name_of, subdomain_of
from ray_serve_cai.providers.registry import get_provider
from ray_serve_cai.spec.cluster import CaiApplicationsProvider as Settings

POSTS = ("POST", "/applications$")


class Nodes:
    """One cluster's provider with its state folder in the project's home."""

    def __init__(self, bench: Workbench, name: str = "demo", **settings: Any) -> None:
        self.bench = bench
        self.provider = get_provider("cai-applications")
        self.state = ClusterState(name)
        self.state.create()
        self.context = LaunchContext(
            name, Settings(**settings), self.state.folder, self.state.logs, {"FOR_NODES": "yes"}
        )

    def launch(self, *ids: str, **keys: Any) -> None:
        self.provider.launch([worker(node_id, **keys) for node_id in ids], self.context)

    def states(self) -> dict[str, str]:
        return {node.id: node.state for node in self.provider.list(self.state.folder)}

    def messages(self) -> dict[str, str]:
        return {node.id: node.message for node in self.provider.list(self.state.folder)}

    def terminate(self, *ids: str) -> None:
        self.provider.terminate(self.state.folder, ids)

    def sent(self) -> list[dict[str, Any]]:
        return [call.body for call in self.bench.made(*POSTS)]


def worker(node_id: str, **keys: Any) -> NodePlan:
    return NodePlan(node_id, "worker", node_id.rpartition("-")[0], 1, 2 * 1024**3, **keys)


@pytest.fixture
def nodes(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setenv("CAI_HOME", str(bench.project.home / ".cai"))
    return Nodes(bench)


@pytest.fixture
def still(bench: Workbench, nodes: Nodes) -> Nodes:
    """Applications that stay as they are: no process runs for them."""
    bench.knobs.runs_workloads = False
    return nodes


class TestRealAgents:
    def test_life_of_two_nodes(self, nodes: Nodes) -> None:
        nodes.launch("gpu-0", "gpu-1")
        until(lambda: set(nodes.states().values()) == {"running"}, 40, "two answers with 200")
        rows = nodes.state.node_rows()
        assert {row["state"] for row in rows.values()} == {"starting"}
        log = nodes.state.logs / "node-gpu-0.log"
        assert log.is_file()
        console = nodes.bench.applications()[0].workload.console.read_text()
        assert "its output is in" in console
        agents = [one.workload for one in nodes.bench.applications()]
        nodes.terminate("gpu-0", "gpu-1")
        assert nodes.states() == {}
        assert nodes.bench.applications() == []
        assert {agent.status for agent in agents} == {"stopped"}
        assert {row["state"] for row in nodes.state.node_rows().values()} == {"ended"}

    def test_a_failed_node_comes_back_as_itself(self, nodes: Nodes) -> None:
        """The platform restarts it; there is never a second one of that id."""
        nodes.launch("gpu-0")
        until(lambda: nodes.states() == {"gpu-0": "running"}, 40, "the node")
        (one,) = nodes.bench.applications()
        one.workload.kill()
        until(lambda: len(one.workloads) == 2, 20, "the platform's restart")
        until(lambda: nodes.states() == {"gpu-0": "running"}, 40, "the node again")
        assert len(nodes.sent()) == 1
        assert len(nodes.state.node_rows()) == 1

    def test_restarted_after_its_cluster_went(self, nodes: Nodes) -> None:
        nodes.state.clear()
        nodes.bench.knobs.restarts = 0
        nodes.launch("gpu-0")
        (one,) = nodes.bench.applications()
        until(lambda: one.status == "FAILED", 30, "the end of the node")
        assert "there is no cluster in" in one.workload.console.read_text()
        assert nodes.states() == {"gpu-0": "lost"}
        assert nodes.messages() == {"gpu-0": "its application is failed"}

    def test_no_secret_leaves_the_folder(self, nodes: Nodes) -> None:
        nodes.launch("gpu-0")
        until(lambda: nodes.states() == {"gpu-0": "running"}, 40, "the node")
        token = nodes.state.token_path.read_text()
        key = nodes.bench.project.apiv2_key
        (one,) = nodes.bench.applications()
        text = json.dumps(nodes.sent()) + one.workload.console.read_text()
        text += (nodes.state.logs / "node-gpu-0.log").read_text()
        text += (nodes.state.folder / "applications" / "gpu-0.json").read_text()
        assert token not in text
        assert key not in text
        assert nodes.bench.project.api_key not in text


class TestWhatIsAsked:
    def test_a_worker(self, still: Nodes) -> None:
        still.launch("gpu-0", gpu=1, accelerator="NVIDIA-L4")
        (body,) = still.sent()
        environment = body.pop("environment")
        folder = still.state.folder.resolve()
        assert body == {
            "project_id": still.bench.project.id,
            "name": name_of(still.bench.project.id, folder, "gpu-0"),
            "subdomain": subdomain_of(still.bench.project.id, folder, "gpu-0", "demo"),
            "description": "Node gpu-0 of the cai cluster demo.",
            "script": "cai_entrypoint.py",
            "runtime_identifier": RUNTIME["image_identifier"],
            "cpu": 1,
            "memory": 2.0,
            "nvidia_gpu": 1,
            "accelerator_label_id": "7",
            "bypass_authentication": False,
        }
        assert NodePlan.from_json(environment["CAI_NODE_PLAN"]).id == "gpu-0"
        assert environment["CAI_HOME"] == os.environ["CAI_HOME"]
        assert environment["CAI_NODE_HEALTH"] == "plain"
        assert environment["CAI_PYTHON"] == sys.executable
        assert environment["FOR_NODES"] == "yes"
        # The mark would have the node agent kill the platform's process around it.
        assert not {"CAI_CLUSTER_FOLDER", "CAI_NODE", "PYTHONPATH"} & environment.keys()

    def test_a_head_that_is_open(self, bench: Workbench, still: Nodes) -> None:
        bench.knobs.bypass_allowed = True
        nodes = Nodes(bench, "open", bypass_authentication=True, subdomain_prefix="llm")
        head = NodePlan("head", "head", "head", 0, 4 * 1024**3)
        nodes.provider.launch([head], nodes.context)
        nodes.launch("gpu-0")
        head_body, body = nodes.sent()
        assert head_body["bypass_authentication"] is True
        assert head_body["environment"]["CAI_NODE_HEALTH"] == "front-door"
        assert head_body["subdomain"].startswith("llm-head-")
        assert (head_body["cpu"], head_body["memory"]) == (1.0, 4.0)
        assert body["bypass_authentication"] is False
        marked = [bool(b["environment"].get("CAI_PUBLIC")) for b in (head_body, body)]
        assert marked == [True, False]

    def test_settings_go_before_look_ups(self, bench: Workbench, still: Nodes) -> None:
        image = bench.knobs.runtimes[1]["image_identifier"]
        nodes = Nodes(
            bench,
            "set",
            runtime_identifier=image,
            accelerator_label_id="7",
            resource_profile_id="3",
            resource_group_id="4",
        )
        nodes.launch("gpu-0", gpu=1, accelerator="unknown here")
        (body,) = nodes.sent()
        assert body["runtime_identifier"] == image
        assert (body["resource_profile_id"], body["resource_group_id"]) == ("3", "4")
        assert bench.made("GET", "nodelabels|runtimes") == []

    @pytest.mark.parametrize(
        ("prefix", "node"), [("a--b", "g--0"), ("x" * 40, "y" * 40 + "-0"), ("demo", "head")]
    )
    def test_subdomains_are_right_and_differ(self, prefix: str, node: str, tmp_path: Path) -> None:
        found = subdomain_of("p", tmp_path, node, prefix)
        assert SUBDOMAIN.fullmatch(found)
        assert len(found) <= 63
        others = {
            subdomain_of("other", tmp_path, node, prefix),
            subdomain_of("p", tmp_path / "other", node, prefix),
            subdomain_of("p", tmp_path, node.replace("--", "-") + "1", prefix),
        }
        assert found not in others

    def test_calls_do_not_grow_with_polls_times_nodes(self, still: Nodes) -> None:
        still.launch(*(f"gpu-{number}" for number in range(30)))
        assert len(still.sent()) == 30
        still.bench.calls.clear()
        for _ in range(5):
            assert len(still.states()) == 30
        assert len(still.bench.calls) == 5


class TestList:
    def test_not_those_of_others(
        self, bench: Workbench, still: Nodes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two clusters of one project, and one of the same name with another CAI_HOME."""
        Nodes(bench, "demo-2").launch("gpu-0")
        monkeypatch.setenv("CAI_HOME", str(bench.project.home / "another"))
        other = Nodes(bench)
        other.launch("gpu-0")
        still.launch("gpu-1")
        assert still.states() == {"gpu-1": "pending"}
        assert other.states() == {"gpu-0": "pending"}
        still.terminate("gpu-0", "gpu-1")
        assert len(bench.applications()) == 2

    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("RUNNING", "running"),
            ("PULLING_IMAGE", "pending"),
            ("UNKNOWN", "pending"),
            ("STOPPING", "lost"),
            ("STOPPED", "lost"),
            ("FAILED", "lost"),
        ],
    )
    def test_states(self, still: Nodes, word: str, state: str) -> None:
        still.launch("gpu-0")
        still.bench.applications()[0].status = word
        assert still.states() == {"gpu-0": state}

    def test_one_that_is_not_listed_yet(self, still: Nodes) -> None:
        still.launch("gpu-0")
        still.bench.faults.append(Fault("GET", "/applications$", 200, b'{"applications": []}'))
        assert still.messages() == {"gpu-0": "the platform does not list it yet"}

    def test_one_that_somebody_deleted(self, still: Nodes) -> None:
        still.launch("gpu-0")
        note = still.state.folder / "applications" / "gpu-0.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"launched": 0}))
        still.bench.applications()[0].gone.set()
        assert still.states() == {"gpu-0": "lost"}
        still.terminate("gpu-0")
        assert still.states() == {}

    def test_pending_for_long(self, bench: Workbench, still: Nodes) -> None:
        """How long to wait is for the launcher to say, which may be told more than the spec."""
        nodes = Nodes(bench, launch_timeout="0.001s")
        nodes.launch("gpu-0")
        note = still.state.folder / "applications" / "gpu-0.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"launched": 0}))
        assert nodes.states() == {"gpu-0": "pending"}
        assert nodes.messages() == {"gpu-0": "its application is starting"}

    def test_damaged_note(self, still: Nodes) -> None:
        still.launch("gpu-0")
        (still.state.folder / "applications" / "gpu-0.json").write_text("{")
        with pytest.raises(StateError, match=r"gpu-0\.json: not what cai wrote") as raised:
            still.provider.public_address(still.state.folder)
        assert raised.value.code == "CAI-STATE-002"

    def test_without_a_usable_answer(self, still: Nodes) -> None:
        still.bench.faults.append(Fault("GET", "/applications$", 500, times=9))
        with pytest.raises(ClusterError) as raised:
            still.states()
        assert raised.value.code == "CAI-PROVIDER-003"


class TestTrouble:
    def test_refused_and_undone(self, still: Nodes) -> None:
        """Two of three are refused: the platform's words, and nothing is left."""
        still.bench.faults.append(
            Fault("POST", "/applications$", 400, b'{"message": "no quota left"}', times=2)
        )
        launcher = Launcher(still.state, still.provider)
        ids = ["gpu-0", "gpu-1", "gpu-2"]
        launcher.opened += ids
        with pytest.raises(ClusterError, match="no quota left") as raised:
            still.launch(*ids)
        assert raised.value.code == "CAI-PROVIDER-002"
        launcher.undo(whole=True)
        assert still.bench.applications() == []
        assert still.states() == {}

    @pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
    def test_nothing_more_is_made_then(
        self, still: Nodes, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An interrupt reaches this thread, a full disk one that writes a note."""
        if failure is OSError:
            (still.state.folder / "applications").write_text("not a folder")
        else:

            def interrupted(*calls: object, **keys: object) -> None:
                raise KeyboardInterrupt

            monkeypatch.setattr(cai_applications, "wait", interrupted)
        with pytest.raises(failure):
            still.launch(*(f"gpu-{number}" for number in range(40)))
        assert len(still.sent()) < 40

    def test_undone_before_it_is_listed(self, still: Nodes) -> None:
        """A listing may lag behind a creation, and the undo of an `up` is quick."""
        still.launch("gpu-0")
        empty = b'{"applications": []}'
        still.bench.faults.append(Fault("GET", "/applications$", 200, empty, times=4))
        still.terminate("gpu-0")
        assert still.bench.applications() == []
        assert still.states() == {}

    def test_made_though_the_call_timed_out(self, still: Nodes) -> None:
        still.bench.faults.append(Fault("POST", "/applications$", after=True))
        still.launch("gpu-0")
        assert len(still.bench.applications()) == 1
        assert still.states() == {"gpu-0": "pending"}

    def test_launcher_died_before_its_note(self, still: Nodes) -> None:
        still.launch("gpu-0")
        (still.state.folder / "applications" / "gpu-0.json").unlink()
        assert still.states() == {"gpu-0": "pending"}
        still.terminate("gpu-0")
        assert still.bench.applications() == []

    def test_restart_is_never_used(self, bench: Workbench, still: Nodes) -> None:
        """It can hang, and then leaves an engine behind."""
        bench.knobs.restart_hangs = True
        still.launch("gpu-0")
        (before,) = bench.applications()
        before.status = "FAILED"
        still.terminate("gpu-0")
        still.launch("gpu-0")
        (after,) = bench.applications()
        assert after.id != before.id
        assert bench.made("POST", "restart") == []

    def test_terminating_waits_for_the_name(self, still: Nodes) -> None:
        still.bench.knobs.delete_seconds = 1.0
        still.launch("gpu-0")
        still.terminate("gpu-0")
        still.launch("gpu-0")
        assert len(still.bench.applications()) == 1

    def test_terminating_the_missing_is_done(self, still: Nodes) -> None:
        still.launch("gpu-0")
        still.terminate("gpu-7")
        assert still.states() == {"gpu-0": "pending"}
        assert still.bench.made("DELETE", "") == []

    def test_a_few_calls_at_a_time(self, still: Nodes) -> None:
        seen: list[int] = []
        going = threading.Semaphore(0)
        create = still.bench.applications.create

        def slow(body: dict[str, Any]) -> dict[str, Any]:
            going.release()
            seen.append(going._value)
            threading.Event().wait(0.05)
            made = create(body)
            going.acquire()
            return made

        still.bench.applications.create = slow  # type: ignore[method-assign]
        still.launch(*(f"gpu-{number}" for number in range(12)))
        assert 1 < max(seen) <= 4

    @pytest.mark.parametrize("name", ["CDSW_PROJECT_ID", "CDSW_APIV2_KEY"])
    def test_outside_a_workload(
        self, still: Nodes, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.delenv(name)
        with pytest.raises(ClusterError, match=f"{name} is not set"):
            still.states()
