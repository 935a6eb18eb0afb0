"""Applications on the stand-in workbench with real Ray: one that serves, and one for each node."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.cloudera.inside import SessionCai
from fakes.cloudera.platform import Platform
from fakes.cloudera.rest import Workbench
from fakes.cloudera.workload import Wanted, Workload
from support import Cluster, cluster_spec, command_line, echo_spec, until

pytestmark = [pytest.mark.ray, pytest.mark.root]

SHM_MEGABYTES = 256
READY = "cluster served: ready\n"
QUESTION = {
    "model": "echoed",
    "messages": [{"role": "user", "content": "What is cai?"}],
    "max_tokens": 8,
}


@pytest.fixture
def platform(short_home: Path) -> Iterator[Platform]:
    """Launches workers, in networks of their own, for the applications of `bench` also."""
    made = Platform(short_home)
    made.knobs.wanted = {"shm_megabytes": SHM_MEGABYTES}
    yield made
    made.close()


@pytest.fixture
def bench(platform: Platform) -> Iterator[Workbench]:
    with Workbench(platform.project, platform=platform).serving() as made:
        # A cluster goes down in order before its pod does.
        made.knobs.grace_seconds = 30.0
        yield made


@pytest.fixture
def cai(bench: Workbench) -> Iterator[SessionCai]:
    """`cai` in a session of the project."""
    session = Workload(bench.project, Wanted(shm_megabytes=SHM_MEGABYTES))
    session.start()
    yield SessionCai(bench.project.folder, session=session)
    session.kill()
    session.wait()


def test_application_that_serves(bench: Workbench, cai: SessionCai, platform: Platform) -> None:
    """It has a page at once, then the endpoint; what dies of it comes back; then it goes."""
    groups = [{"name": "side", "count": 1, "cpu": 1, "memory": "1Gi"}]
    provider, head = {"type": "cai-workers"}, {"cpu": 0, "memory": "1Gi"}
    spec = cluster_spec("served", provider=provider, head=head, workers=groups)
    path = cai.write("home/served.yaml", spec, echo_spec("echoed"))
    words = ["cloudera", "application", "create", path, "--cpu", "2", "--memory", "4"]
    url = cai.ok(*words).stdout.strip().splitlines()[-1]
    host = url.split("//")[1]
    until(lambda: application(cai)["state"] == "running", 30, "the page answers")
    assert ask(bench, host, "GET", "/")[0] == 200
    until(lambda: answers(bench, host), 120, "the model")
    assert snapshot(bench, host)["state"] == "ready"

    (node,) = bench.applications()
    assert node.workload is not None
    console = node.workload.console
    (first,) = platform.live()
    assert first.workload.master is node.workload
    first.workload.kill()
    until(lambda: "recovering node side-0" in console.read_text(), 60, "the worker's loss")
    until(lambda: console.read_text().count(READY) == 2, 120, "another worker")
    (second,) = platform.live()
    assert second is not first
    until(lambda: answers(bench, host), 60, "the model on it")

    cluster = Cluster(cai, "served", path, url)
    (agent,) = [p for p in cluster.processes("head") if "cluster.node" in command_line(p)]
    agent.kill()
    until(lambda: "recovering node head" in console.read_text(), 60, "the head's loss")
    until(lambda: console.read_text().count(READY) == 3, 120, "the recovery")
    until(lambda: answers(bench, host), 60, "the model again")
    assert bench.project.apiv2_key not in console.read_text()
    assert (cluster.folder / "token").read_text() not in ask(bench, host, "GET", "/status.json")[1]

    cai.ok("cloudera", "application", "delete", "cai served", "--yes")
    assert bench.applications() == []
    assert cluster.processes() == []
    assert platform.live() == []
    assert [each.name for each in cluster.folder.iterdir()] == ["logs"]


def test_every_node_an_application(bench: Workbench, cai: SessionCai) -> None:
    """The session is no node of its cluster, and need not be there for it to live."""
    groups = [{"name": "cpu", "count": 1, "cpu": 1, "memory": "1Gi"}]
    cluster = Cluster.up(
        cai,
        "each",
        provider={"type": "cai-applications"},
        head={"cpu": 0, "memory": "1Gi"},
        workers=groups,
    )
    host = cluster.url.split("//")[1]
    assert cluster.url.startswith("http://each-head-")
    cluster.deploy_ok("echoed")
    assert answers(bench, host)
    ask_it = ["model", "chat", "echoed", "What is cai?", "--cluster", "each"]
    assert "What is cai?" in cai.ok(*ask_it).stdout
    refused = cai(*ask_it, env={"CDSW_APIV2_KEY": "of-another-workbench"})
    assert (refused.returncode, "CAI-MODEL-003" in refused.stderr) == (1, True)
    assert "login" in refused.stderr
    assert cai.session is not None
    cai.session.kill()
    assert answers(bench, host)
    cai.session = Workload(bench.project, Wanted(shm_megabytes=SHM_MEGABYTES))
    cai.session.start()
    assert cluster.model("echoed")["state"] == "ready"
    assert cai.json("cluster", "up", cluster.spec)["actions"] == []

    # The platform starts the head again by itself, but it is another Ray, without models.
    head = next(one for one in bench.applications() if " head " in one.fields["name"])
    assert head.workload is not None
    head.workload.kill()
    until(lambda: len(head.workloads) == 2 and head.status == "RUNNING", 60, "the restart")
    cai.ok("cluster", "recover", "each")
    assert answers(bench, host)
    cai.ok("cluster", "down", "each", "--yes")
    assert bench.applications() == []
    assert [each.name for each in cluster.folder.iterdir()] == ["logs"]


def application(cai: SessionCai) -> dict[str, Any]:
    found: dict[str, Any] = cai.json("cloudera", "application", "list")["applications"][0]
    return found


def answers(bench: Workbench, host: str) -> bool:
    status, body = ask(bench, host, "POST", "/v1/chat/completions", json.dumps(QUESTION))
    return status == 200 and "What is cai?" in body


def snapshot(bench: Workbench, host: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(ask(bench, host, "GET", "/status.json")[1])
    return data


def ask(
    bench: Workbench, host: str, method: str, path: str, body: str | None = None
) -> tuple[int, str]:
    """As a person does who is logged in, or a program with a key of that audience."""
    connection = http.client.HTTPConnection(bench.project.domain, timeout=30)
    headers = {
        "Host": host,
        "Authorization": f"Bearer {bench.project.apiv2_key}",
        "Content-Type": "application/json",
    }
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read().decode(errors="replace")
