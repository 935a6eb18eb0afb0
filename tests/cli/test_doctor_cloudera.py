"""`cai doctor --cloudera` inside workloads of the stand-in platform, in its variants."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.cloudera.platform import Platform
from fakes.cloudera.rest import Fault, Workbench
from fakes.cloudera.workload import Workload
from support import short_folder, until

from ray_serve_cai.cli import cloudera_workers
from ray_serve_cai.cli.app import run

# A pod of the stand-in can take long to end where the machine is busy.
SECONDS = 240.0


class World:
    """The platform with both of its APIs, and a session in it."""

    def __init__(self, folder: Path, **variant: Any) -> None:
        self.platform = Platform(folder, **variant)
        self.platform.knobs.gpus = 8
        self.bench = Workbench(replace(self.platform.project))

    def session(self, **wanted: Any) -> Workload:
        url = self.bench.project.url
        rest = {"CDSW_API_URL": f"{url}/api/v1", "CDSW_DOMAIN": self.bench.project.domain}
        rest |= wanted.pop("environment", {})
        return self.platform.session(cpu=2, memory=4.0, environment=rest, **wanted)

    def doctor(self, session: Workload, *words: str) -> subprocess.CompletedProcess[str]:
        command = session.command(sys.executable, "-m", "ray_serve_cai", "doctor", *words)
        return subprocess.run(
            command,
            env=session.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def checks(self, session: Workload, *words: str) -> dict[str, dict[str, Any]]:
        """The rows by name; the exit status fits them, and no key is in what is printed."""
        done = self.doctor(session, "--cloudera", "--json", *words)
        rows = json.loads(done.stdout)["checks"]
        assert done.returncode == (0 if all(row["ok"] for row in rows) else 1), done.stderr
        project = self.platform.project
        assert project.api_key not in done.stdout + done.stderr
        assert project.apiv2_key not in done.stdout + done.stderr
        for row in rows:
            assert set(row) == {"name", "ok", "found", "wanted", "hint"}
            assert row["ok"] or row["hint"]
        return {row["name"]: row for row in rows}


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Beside each other on this machine, unless the test asks for pods apart."""
    variant = {"apart": False, **getattr(request, "param", {})}
    with short_folder() as folder, ExitStack() as stack:
        made = World(folder, **variant)
        stack.callback(made.platform.close)
        stack.enter_context(made.bench.serving())
        yield made


def failed(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in checks.items() if not row["ok"]}


APART = pytest.mark.parametrize("world", [{"apart": True}], indirect=True)


def test_outside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDSW_PROJECT_ID", raising=False)
    assert run(["doctor", "--cloudera", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "CAI-PROVIDER-001"
    assert run(["doctor", "--start"]) == 2


def test_all_as_assumed(world: World) -> None:
    checks = world.checks(world.session())
    assert failed(checks) == set()
    assert "cml.workers_v1" in checks["worker library"]["found"]
    assert "accelerator_label_id=None" in checks["launch_workers"]["found"]
    assert "NVIDIA-L4 id=7" in checks["GPU labels"]["found"]
    assert world.platform.calls["launch"] == 0
    assert {call.method for call in world.bench.calls} == {"GET"}


def test_text_is_fit_to_paste(world: World) -> None:
    world.bench.knobs.shared_memory_limit = 0
    done = world.doctor(world.session(), "--cloudera")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = lines.index("failed  shared memory limit: 0 MB")
    assert lines[at + 1].strip() == "assumed: at least 1000 MB"
    assert lines[at + 2].strip().startswith("so: Raise Shared Memory Limit")


@pytest.mark.parametrize(
    ("world", "found"),
    [
        ({"variant": "cdsw", "signature": "old"}, "of the further ones: none"),
        ({"variant": "cml", "signature": "named"}, "resource_group_id, name"),
    ],
    indirect=["world"],
)
def test_other_libraries(world: World, found: str) -> None:
    checks = world.checks(world.session())
    assert failed(checks) == set()
    assert found in checks["launch_workers"]["found"]


@pytest.mark.parametrize("world", [{"variant": "neither"}], indirect=True)
def test_no_library(world: World) -> None:
    checks = world.checks(world.session())
    assert failed(checks) == {"worker library"}
    assert "cml.workers_v1: No module" in checks["worker library"]["found"]
    assert "cdsw: No module" in checks["worker library"]["found"]


def test_wrong_key(world: World) -> None:
    world.bench.project.apiv2_key = "another"
    checks = world.checks(world.session())
    assert failed(checks) == {"REST API v2"}
    assert "CAI-PROVIDER-004" in checks["REST API v2"]["found"]


def test_a_page_in_place_of_data(world: World) -> None:
    page = b"<html>Bad gateway</html>"
    world.bench.faults.append(Fault("GET", "/nodelabels", 502, body=page, times=99))
    world.platform.knobs.broken_lists = 99
    world.platform.knobs.broken_answer = page
    checks = world.checks(world.session())
    assert failed(checks) == {"GPU labels", "own workers"}
    assert "CAI-PROVIDER-003" in checks["GPU labels"]["found"]


def test_status_words_that_nobody_knows(world: World) -> None:
    world.bench.knobs.runs_workloads = False
    fields = {"name": "odd", "subdomain": "odd", "script": "odd.py", "environment": {}}
    fields |= {"runtime_identifier": world.bench.knobs.runtimes[0]["image_identifier"]}
    (world.platform.project.home / "odd.py").touch()
    world.bench.applications.create(fields)
    next(iter(world.bench.applications())).status = "HIBERNATING"
    checks = world.checks(world.session())
    assert failed(checks) == {"application statuses"}
    assert "HIBERNATING" in checks["application statuses"]["hint"]


def test_variables_and_proxy(world: World) -> None:
    address = "http://user:hunter2hunter2@proxy.invalid:3128"
    variables = {"no_proxy": world.bench.project.domain.partition(":")[0], "HTTPS_PROXY": address}
    session = world.session(environment=variables | {"REQUESTS_CA_BUNDLE": "/nowhere.pem"})
    done = world.doctor(session, "--cloudera")
    assert "hunter2" not in done.stdout + done.stderr
    assert "HTTPS_PROXY=proxy.invalid:3128" in done.stdout
    assert "failed  CA file: REQUESTS_CA_BUNDLE /nowhere.pem missing" in done.stdout


@pytest.fixture
def inside(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """This process is in a session of the platform, as far as variables and imports go."""
    for name, value in world.session().environment.items():
        if name.startswith("CDSW_"):
            monkeypatch.setenv(name, value)
    for folder in world.platform.project.addons:
        monkeypatch.syspath_prepend(folder)
    yield world
    for name in ("cml.workers_v1", "cml"):
        sys.modules.pop(name, None)


def test_a_worker_that_never_starts(inside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudera_workers, "START_SECONDS", 0.0)
    inside.platform.knobs.schedule = 1000.0
    said: list[tuple[str, ...]] = []
    (check,) = cloudera_workers.worker_trial(lambda *words: said.append(words))
    assert (check.name, check.ok) == ("worker start", False)
    assert check.found == "scheduling; not in 0 s"
    assert said == [("trying", "a worker of half a CPU: scheduling")]
    until(lambda: not inside.platform.live(), 10, "the worker was stopped")


def test_interrupted(world: World) -> None:
    """Ctrl-C in the midst of a trial takes its worker along."""
    world.platform.knobs.schedule = 1000.0
    session = world.session()
    command = session.command(sys.executable, "-m", "ray_serve_cai", "doctor", "--cloudera")
    doctor = subprocess.Popen([*command, "--start"], env=session.environment, text=True)
    try:
        until(world.platform.live, 30, "a worker is asked for")
        doctor.send_signal(signal.SIGINT)
        assert doctor.wait(30) == 130
    finally:
        doctor.kill()
    assert not world.platform.live()
    assert not list((world.platform.project.home / ".cai" / "doctor").iterdir())


@pytest.mark.root
@APART
class TestApart:
    def test_start(self, world: World) -> None:
        """Every trial, and nothing is left of them."""
        checks = world.checks(world.session(shm_megabytes=2048), "--start")
        assert failed(checks) == set()
        assert "running with an address" in checks["worker start"]["found"]
        assert checks["port that is closed"]["found"] == "ConnectionRefusedError"
        assert checks["application environment"]["found"].startswith("read back, as str")
        assert "Subdomain" in checks["wrong subdomain"]["found"]
        until(lambda: not world.platform.live(), 10, "the workers ended")
        assert not list(world.bench.applications())
        assert not list(world.platform.project.home.glob("cai_doctor*"))
        assert not list((world.platform.project.home / ".cai" / "doctor").iterdir())

    def test_mesh(self, world: World) -> None:
        """A sidecar is there, and answers for ports on which nothing listens."""
        world.platform.knobs.wanted = {"silent_ports": [9]}
        session = world.session(shm_megabytes=2048)
        sidecar = subprocess.Popen(
            session.command(sys.executable, "-m", "http.server", "15021", "-b", "127.0.0.1"),
            env=session.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listens = ["sh", "-c", "grep -q :3AAD /proc/net/tcp"]
        until(lambda: subprocess.run(session.command(*listens)).returncode == 0, 10, "it listens")
        checks = world.checks(session, "--start")
        sidecar.kill()
        sidecar.wait()
        assert failed(checks) == {"service mesh", "port that is closed"}
        assert "tensor parallel" in checks["port that is closed"]["hint"]

    def test_small_pod_with_an_editor(self, world: World) -> None:
        image = dict(world.bench.knobs.runtimes[0], editor="JupyterLab", image_identifier="lab")
        world.bench.knobs.runtimes.append(image)
        checks = world.checks(world.session(port_taken=True))
        assert failed(checks) == {"shared memory", "CDSW_APP_PORT"}
        assert "Shared Memory Limit" in checks["shared memory"]["hint"]
        assert "editor" in checks["CDSW_APP_PORT"]["hint"]

    def test_gpus_refused(self, world: World) -> None:
        """Everything is refused: said in the platform's words, and half-made engines stopped."""
        world.platform.knobs.quota = 0
        world.platform.knobs.refusal = {"k8sMessage": "quota of ann is used up", "engineId": ""}
        checks = world.checks(world.session(shm_megabytes=2048), "--start")
        assert failed(checks) == {"worker"}
        assert "quota of ann is used up" in checks["worker"]["found"]
        assert checks["too many GPUs"]["found"] == "refused: quota of ann is used up"
        assert not world.platform.half_made

    def test_gpus_granted(self, world: World) -> None:
        """Not as assumed: a platform that does not look at what it has."""
        world.platform.knobs.gpus = None
        checks = world.checks(world.session(shm_megabytes=2048), "--start")
        assert failed(checks) == {"too many GPUs"}

    def test_platform_out_of_order(self, world: World) -> None:
        """Listings that fail for a while are seen, and waited for."""
        world.platform.knobs.broken_lists = 3
        world.platform.knobs.broken_answer = b"<html>Bad gateway</html>"
        checks = world.checks(world.session(shm_megabytes=2048), "--start")
        assert failed(checks) == {"own workers"}
        assert checks["worker start"]["found"].startswith("CAI-PROVIDER-003, running")

    def test_gpus_pending(self, world: World) -> None:
        checks = world.checks(world.session(shm_megabytes=2048), "--start")
        assert "Insufficient nvidia.com/gpu" in checks["too many GPUs"]["found"]
        until(lambda: not world.platform.live(), 10, "the workers ended")
