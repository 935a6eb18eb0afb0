"""The local provider against real processes: stand-ins for Ray, and agents without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import until

from ray_serve_cai.plan.nodes import AGENT_MODULE, NodePlan
from ray_serve_cai.providers.base import LaunchContext
from ray_serve_cai.providers.local import LocalProvider
from ray_serve_cai.providers.processes import NODE_MARK, kill_marked, marked, marks
from ray_serve_cai.spec.cluster import LocalProvider as LocalSettings

# Waits like an agent whose head never comes; its command line is an agent's.
AGENT = [sys.executable, "-c", "import time; time.sleep(600)", "-m", AGENT_MODULE]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "nodes").mkdir()
    yield tmp_path
    kill_marked(tmp_path)


def run(folder: Path, node: str, command: list[str] | None = None) -> psutil.Process:
    environment = os.environ | marks(folder, node)
    started = psutil.Process(subprocess.Popen(command or ["sleep", "600"], env=environment).pid)
    # For an instant of its `exec` a process has no environment to read.
    until(lambda: NODE_MARK in started.environ(), 5, "its environment")
    return started


class TestMarks:
    def test_finds_its_own(self, folder: Path) -> None:
        head, worker = run(folder, "head"), run(folder, "gpu-0")
        assert {process.pid for process in marked(folder)} == {head.pid, worker.pid}
        assert [process.pid for process in marked(folder, "gpu-0")] == [worker.pid]

    def test_not_those_of_another_cluster(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        other = tmp_path_factory.mktemp("other")
        foreign = run(other, "head")
        assert list(marked(folder)) == []
        assert kill_marked(folder) == 0
        assert foreign.is_running()
        assert kill_marked(other) == 1

    def test_nor_this_process(self, folder: Path) -> None:
        code = (
            "import sys; from pathlib import Path\n"
            "from ray_serve_cai.providers.processes import marked\n"
            "print([p.pid for p in marked(Path(sys.argv[1]))])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=os.environ | marks(folder, "head"),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[]\n"

    def test_mark_is_inherited(self, folder: Path) -> None:
        run(folder, "head", ["sh", "-c", "sleep 600 & sleep 600 & wait"])
        until(lambda: len(list(marked(folder, "head"))) == 3, 5, "the children of the shell")
        assert kill_marked(folder, "head") == 3
        assert list(marked(folder)) == []


class TestLocalProvider:
    def test_lists_agents_and_orphans(self, folder: Path) -> None:
        run(folder, "head", AGENT)
        run(folder, "head")
        run(folder, "gpu-0")
        states = {node.id: node.state for node in LocalProvider().list(folder)}
        assert states == {"head": "running", "gpu-0": "lost"}

    def test_terminates_what_the_agent_left(self, folder: Path) -> None:
        run(folder, "gpu-0", AGENT)
        run(folder, "gpu-0")
        other = run(folder, "gpu-1", AGENT)
        LocalProvider().terminate(folder, ["gpu-0"])
        assert [process.pid for process in marked(folder)] == [other.pid]

    def test_terminating_the_missing_is_done(self, folder: Path) -> None:
        LocalProvider().terminate(folder, ["gpu-7"])
        assert LocalProvider().list(folder) == []

    def test_machine(self) -> None:
        machine = LocalProvider().machine()
        assert machine.cpus == os.cpu_count()
        assert 0 < machine.memory <= psutil.virtual_memory().total

    def test_launches_a_real_agent(self, folder: Path) -> None:
        """A worker whose head never comes: it writes its row, waits, and ends on SIGTERM."""
        provider, logs = LocalProvider(), folder / "logs"
        logs.mkdir()
        stale = run(folder, "gpu-0")
        node = NodePlan("gpu-0", "worker", "gpu", 1)
        environment = {"FOR_THE_NODE": "yes"}
        context = LaunchContext("demo", LocalSettings(), folder, logs, environment)
        provider.launch([node], context)
        row = folder / "nodes" / "gpu-0.json"
        until(row.is_file, 20, "the agent's row")
        assert not stale.is_running() or stale.status() == psutil.STATUS_ZOMBIE
        (agent,) = marked(folder)
        assert agent.environ()["FOR_THE_NODE"] == "yes"
        assert [(found.id, found.state) for found in provider.list(folder)] == [
            ("gpu-0", "running")
        ]
        provider.terminate(folder, ["gpu-0"])
        assert provider.list(folder) == []
        assert '"state": "ended"' in row.read_text()
