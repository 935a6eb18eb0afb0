"""What the launcher costs on Cloudera AI as a cluster grows, without the platform and without Ray.

`python -m ray_serve_cai.bench.platform [--late SECONDS]` brings up clusters of more and more
workers through the provider `cai-workers`. Its platform library is a stand-in whose workers are
records, and one other process writes the rows of all agents. The last worker of each cluster is
scheduled late, so that the launcher has something to wait for. Counted are the calls of the
library and this process's CPU time. Then the status of a thousand recorded nodes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ray_serve_cai.bench import platform_library
from ray_serve_cai.cluster.launcher import Launcher, launcher_of, new_record
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.files import replace_text
from ray_serve_cai.plan.cluster import ClusterPlan, plan_cluster
from ray_serve_cai.plan.nodes import ASSIGNMENTS, HEAD, NodePlan
from ray_serve_cai.spec import Document, load_files

SIZES = (3, 30, 300)
RECORDED = 1000
ROUNDS = 5
AGENT_POLL_SECONDS = 0.05
DEADLINE_SECONDS = 120.0
SPEC = """
kind: Cluster
name: {name}
provider: {{type: cai-workers, head_in: worker}}
head: {{cpu: 1, memory: 4Gi}}
workers: [{{name: w, count: {workers}, cpu: 1, memory: 4Gi}}]
gateway: {{port: auto}}
"""
# What a workload of the platform has in its environment; the names are the platform's.
WORKLOAD = {
    "CDSW_PROJECT_ID": "aaaa-bbbb-cccc-dddd",
    "CDSW_ENGINE_ID": "0123456789abcdef",
    "CDSW_IP_ADDRESS": "10.100.200.1",
    "CDSW_API_URL": "http://ml.example.com/api/v1",
    "CDSW_DOMAIN": "ml.example.com",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--late", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--recorded", type=int, default=RECORDED)
    words = parser.parse_args()
    with workload() as folder:
        ups = [measure_up(folder, workers, words.late) for workers in words.sizes]
        status = measure_status(folder, words.recorded)
    print(json.dumps({"late_seconds": words.late, "up": ups, "status": status}, indent=1))


@contextmanager
def workload() -> Iterator[Path]:
    """Be inside a workload of the stand-in platform, with a state folder of its own."""
    before = dict(os.environ)
    folder = Path(tempfile.mkdtemp(prefix="cai-platform-"))
    library = str(Path(platform_library.__file__).parent)
    os.environ.update(WORKLOAD, CAI_HOME=str(folder))
    sys.path.insert(0, library)
    try:
        yield folder
    finally:
        sys.path.remove(library)
        for name in ("cml.workers_v1", "cml"):
            sys.modules.pop(name, None)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def measure_up(folder: Path, workers: int, late: float) -> dict[str, Any]:
    """Launch and wait as `up` does, with the rows in place of Ray's list of live nodes."""
    workers_v1: Any = importlib.import_module("cml.workers_v1")
    workers_v1.forget()
    workers_v1.late_seconds = late
    launcher, document, plan = _planned(folder, f"up-{workers}", workers)
    agents = multiprocessing.get_context("spawn").Process(
        target=play_agents, args=(launcher.state.folder, f"w-{workers - 1}", late), daemon=True
    )
    looks: list[float] = []

    def alive(rows: Mapping[str, Any]) -> Mapping[str, Any]:
        looks.append(time.process_time())
        return {node_id: row for node_id, row in rows.items() if row["state"] == "running"}

    try:
        agents.start()
        began = time.monotonic(), time.process_time()
        record = new_record(document, None)
        launcher.launch(plan, document.cluster, record)
        launched = time.process_time()
        launcher.wait_for_head(DEADLINE_SECONDS, _silent)
        deadline = time.monotonic() + DEADLINE_SECONDS
        launcher.wait_for_nodes(plan.nodes, alive, deadline, _silent)
        ended = time.process_time()
    finally:
        agents.kill()
        agents.join()
    return {
        "workers": workers,
        "calls": dict(workers_v1.calls),
        "looks": len(looks),
        "seconds": round(time.monotonic() - began[0], 1),
        "launch_cpu_ms": _ms(launched - began[1]),
        "wait_cpu_ms": _ms(ended - launched),
        # The median look finds nothing new, while all but the last worker are there.
        "look_cpu_ms": round(median(b - a for a, b in pairwise(looks)) * 1000, 3),
    }


def measure_status(folder: Path, nodes: int) -> dict[str, Any]:
    """The rows behind `cai cluster status` of a cluster whose nodes all run; Ray is not asked."""
    from ray_serve_cai.serving.views import cluster_status

    workers_v1: Any = importlib.import_module("cml.workers_v1")
    workers_v1.forget()
    workers_v1.late_seconds = 0.0
    launcher, document, plan = _planned(folder, "recorded", nodes - 1)
    record = new_record(document, None)
    launcher.state.save(record)
    launcher.launch(plan, document.cluster, record)
    for node in plan.nodes:
        _write_row(launcher.state.folder, node)
    workers_v1.calls.clear()
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        shown = cluster_status("recorded")["nodes"]
        spent.append(_ms(time.process_time() - began))
    assert [node["state"] for node in shown] == ["ready"] * nodes
    calls = {name: count / ROUNDS for name, count in workers_v1.calls.items()}
    command = [_command_cpu() for _ in range(ROUNDS)]
    return {"nodes": nodes, "calls": calls, "cpu_ms": spent, "command_cpu_ms": command}


def _command_cpu() -> float:
    """The whole command as another process, which as no workload judges nodes by their rows."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "ray_serve_cai", "cluster", "status", "recorded", "--json"],
        env={name: value for name, value in os.environ.items() if name != "CDSW_ENGINE_ID"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return _ms(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def play_agents(folder: Path, late_node: str, late: float) -> None:
    """Write each assigned node's row as its agent would, that of `late_node` later."""
    written: set[str] = set()
    began = time.monotonic()
    while True:
        for path in (folder / ASSIGNMENTS).glob("*"):
            if path.name in written or path.name.startswith("."):
                continue
            node = NodePlan.from_json(path.read_text())
            if node.id != late_node or time.monotonic() > began + late:
                _write_row(folder, node)
                written.add(path.name)
        time.sleep(AGENT_POLL_SECONDS)


def _planned(folder: Path, name: str, workers: int) -> tuple[Launcher, Document, ClusterPlan]:
    spec = folder / f"{name}.yaml"
    spec.write_text(SPEC.format(name=name, workers=workers))
    document = load_files([spec])[0]
    state = ClusterState(name)
    state.create()
    launcher = launcher_of(state, document.cluster.provider.type)
    return (
        launcher,
        document,
        plan_cluster(document.cluster, launcher.facts(None, gateway_running=False)),
    )


def _write_row(folder: Path, node: NodePlan) -> None:
    row: dict[str, Any] = {"id": node.id, "role": node.role, "group": node.group, "run": "0"}
    row |= {"state": "running", "cpu": node.cpu, "gpu": node.gpu, "memory": node.memory}
    row |= {"ip": "10.100.0.1", "ray_port": 6379} if node.id == HEAD else {"ip": "10.100.0.2"}
    replace_text(folder / "nodes" / f"{node.id}.json", json.dumps(row, indent=1))


def _silent(*_: object) -> None:
    """The command would show its progress here."""


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


if __name__ == "__main__":
    main()
