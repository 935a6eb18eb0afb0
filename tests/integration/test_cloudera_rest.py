"""Jobs and nodes on the stand-in workbench with real Ray: over REST v2, through the script."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.cloudera.fixtures import set_up
from fakes.cloudera.network import Network
from fakes.cloudera.project import Project
from fakes.cloudera.rest import Workbench
from support import Cai, cluster_spec, echo_spec, until

from ray_serve_cai.cluster.launcher import Launcher, new_record, observed_plan
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.providers.registry import get_provider
from ray_serve_cai.spec import load_files

pytestmark = [pytest.mark.ray, pytest.mark.root]

ASK = """
import os, sys
from openai import OpenAI
client = OpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
question = [{"role": "user", "content": "What is cai?"}]
answer = client.chat.completions.create(model="echo", messages=question)
open("answer", "w").write(answer.choices[0].message.content)
sys.exit(3)
"""

NODES = """
import json, os, sys, ray
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
print(json.dumps(sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"])))
"""


@pytest.fixture
def apart(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    """A workbench whose workloads have networks of their own."""
    network = Network()
    try:
        with Workbench(Project(short_home, network)).serving() as bench:
            set_up(bench, monkeypatch)
            monkeypatch.setenv("CAI_HOME", str(bench.project.home / ".cai"))
            yield bench
    finally:
        network.remove()


def test_job_serves_for_its_command(apart: Workbench) -> None:
    """The model answers, the job has failed because the command did, and nothing is left."""
    project = apart.project
    session = {"CDSW_ENGINE_ID": "abcdefgh12345678", "CAI_HOME": str(project.home / ".cai")}
    cai = Cai(project.home, project.variables(temp=project.temp, own=session))
    cai.write("demo.yaml", cluster_spec("demo"), echo_spec("echo"))
    (project.home / "ask.py").write_text(ASK)
    words = ["--cpu", "4", "--memory", "2", "--run", "--", sys.executable, "ask.py"]
    cai.ok("cloudera", "job", "create", "demo.yaml", *words)
    until(lambda: state(cai) in ("succeeded", "failed"), 120, "the end of the job")
    (job,) = apart.jobs.all
    console = job.runs[0].workload.console.read_text()
    assert (project.home / "answer").is_file(), console
    assert (project.home / "answer").read_text() == "What is cai?"
    assert state(cai) == "failed"
    assert project.apiv2_key not in console
    assert not (project.home / ".cai" / "clusters" / "demo" / "cluster.json").exists()


def state(cai: Cai) -> str:
    (row,) = cai.json("cloudera", "job", "list")["jobs"]
    return str(row["state"])


def test_cluster_of_applications(apart: Workbench) -> None:
    """A head and two workers in three networks; one dies, comes back; then nothing is left."""
    spec = cluster_spec(
        "demo",
        provider={"type": "cai-applications"},
        head={"cpu": 1, "memory": "1Gi"},
        workers=[{"name": "cpu", "count": 2, "cpu": 1, "memory": "1Gi"}],
    )
    path = apart.project.home / "demo.json"
    path.write_text(json.dumps(spec))
    (document,) = load_files([path])
    state = ClusterState("demo")
    plan = observed_plan(document, gateway_running=False)
    state.create()
    record = new_record(document, None)
    state.save(record)
    launcher = Launcher(state, get_provider("cai-applications"))
    launcher.launch(plan, document.cluster, record)
    address = launcher.wait_for_head(60, lambda *_: None)
    everywhere = ["head", "cpu-0", "cpu-1"]
    until(lambda: states(launcher) == dict.fromkeys(sorted(everywhere), "running"), 60, "200s")
    until(lambda: len(ray_nodes(apart, state, address)) == 3, 60, "three nodes of Ray")
    victim = application(apart, "cpu-0")
    assert victim.workload is not None
    gone = victim.workload.ip
    victim.workload.kill()
    until(lambda: len(victim.workloads) == 2, 20, "the platform's restart")
    back = victim.workloads[1].ip
    until(lambda: back in (seen := ray_nodes(apart, state, address)) and len(seen), 60, "it back")
    until(lambda: gone not in ray_nodes(apart, state, address), 60, "Ray to see the loss")
    workloads = [one.workload for one in apart.applications()]
    launcher.remove()
    assert apart.applications() == []
    assert {workload.status for workload in workloads if workload} == {"stopped"}
    assert [path.name for path in state.folder.iterdir()] == ["logs"]


def states(launcher: Launcher) -> dict[str, str]:
    return {node.id: node.state for node in launcher.provider.list(launcher.state.folder)}


def application(bench: Workbench, node_id: str) -> Any:
    found = (one for one in bench.applications() if f" {node_id} " in one.fields["name"])
    return next(found)


def ray_nodes(bench: Workbench, state: ClusterState, address: str) -> list[str]:
    """Addresses of the live nodes as Ray in the head's pod lists them."""
    head = application(bench, "head").workload
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state.token_path)}
    done = subprocess.run(
        head.command(sys.executable, "-c", NODES, address),
        env=head.environment | token,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Ray may complain on the same output, before and after.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('["')]
    found: list[str] = json.loads(line)
    return found
