"""`cai cloudera` against the stand-in workbench, as a session of the project runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.cloudera.answers import SUBDOMAIN
from fakes.cloudera.applications import RUNTIME
from fakes.cloudera.rest import Fault, Workbench
from support import cluster_spec, echo_spec, until

from ray_serve_cai.cli.app import run
from ray_serve_cai.plan.nodes import PLAN_VARIABLE

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def home(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder with specs in it, being the working directory of a session."""
    bench.knobs.runs_workloads = False
    folder = bench.project.home
    monkeypatch.chdir(folder)
    (folder / "specs").mkdir()
    write(folder / "specs" / "demo.yaml", cluster_spec("demo"), echo_spec("echo"))
    return folder


def write(path: Path, *documents: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump_all(documents))


@pytest.fixture
def answer(capsys: Captured) -> Callable[..., dict[str, Any]]:
    """Runs the command with --json and returns its one object."""

    def ask(*words: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        cut = words.index("--") if "--" in words else len(words)
        found = run([*words[:cut], "--json", *words[cut:]])
        out, err = capsys.readouterr()
        assert found == status, err
        data: dict[str, Any] = json.loads(out)
        assert data["schema"] == "cai/v1"
        return data

    return ask


Answer = Callable[..., dict[str, Any]]


def created(bench: Workbench, noun: str = "applications") -> dict[str, Any]:
    (call,) = bench.made("POST", f"/{noun}$")
    body: dict[str, Any] = call.body
    return body


class TestApplicationCreate:
    def test_what_is_asked(self, bench: Workbench, home: Path, capsys: Captured) -> None:
        assert run(["cloudera", "application", "create", "specs/demo.yaml"]) == 0
        body = created(bench)
        assert SUBDOMAIN.fullmatch(body["subdomain"])
        assert body["subdomain"].startswith("demo-")
        assert body["name"] == "cai demo"
        assert body["environment"]["CAI_ARGUMENTS"] == "serve specs/demo.yaml"
        assert body["runtime_identifier"] == RUNTIME["image_identifier"]
        # A local cluster is in the application as a whole: 4 CPUs and 1 GiB of its head.
        assert (body["cpu"], body["memory"], body["nvidia_gpu"]) == (4.0, 1.0, 0)
        assert (home / body["script"]).is_file()
        url = f"http://{body['subdomain']}.{bench.project.domain}"
        assert capsys.readouterr().out.splitlines()[-1] == url

    def test_options(self, bench: Workbench, home: Path, answer: Answer) -> None:
        image = bench.knobs.runtimes[1]["image_identifier"]
        words = ["--name", "llm", "--subdomain", "llm", "--cpu", "2", "--memory", "12.5"]
        words += ["--gpu", "1", "--runtime", image]
        data = answer("cloudera", "application", "create", "specs/demo.yaml", *words)
        body = created(bench)
        assert (body["name"], body["subdomain"]) == ("llm", "llm")
        assert (body["cpu"], body["memory"], body["nvidia_gpu"]) == (2.0, 12.5, 1)
        assert body["runtime_identifier"] == image
        assert [(a["verb"], a["kind"], a["name"]) for a in data["actions"]] == [
            ("create", "application", "llm")
        ]
        assert data["application"]["url"] == f"http://llm.{bench.project.domain}"

    @pytest.mark.parametrize(
        ("provider", "size"),
        [
            ({"type": "cai-workers"}, (2.0, 8.0, 1)),
            ({"type": "cai-workers", "head_in": "worker"}, (1.0, 4, 0)),
            ({"type": "cai-applications"}, (1.0, 4, 0)),
            ({"type": "local"}, (8.0, 28.0, 3)),
        ],
    )
    def test_size_is_that_of_what_runs_in_it(
        self, bench: Workbench, home: Path, provider: dict[str, str], size: tuple[float, ...]
    ) -> None:
        head = {"cpu": 2, "gpu": 1}
        workers = [{"name": "gpu", "count": 2, "cpu": 3, "memory": "10Gi", "gpu": 1}]
        spec = {"kind": "Cluster", "name": "demo", "provider": provider, "head": head}
        write(home / "sized.yaml", spec | {"workers": workers}, echo_spec("echo"))
        assert run(["cloudera", "application", "create", "sized.yaml"]) == 0
        body = created(bench)
        assert (body["cpu"], body["memory"], body["nvidia_gpu"]) == size

    def test_variables_are_named_and_not_taken_along(
        self,
        bench: Workbench,
        home: Path,
        capsys: Captured,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("DEMO_API_KEY", "sk-very-secret")
        monkeypatch.setenv("DEMO_LEVEL", "info")
        gateway = {"port": "auto", "api_keys": ["${DEMO_API_KEY}"]}
        cluster = cluster_spec("demo", gateway=gateway, ray={"env": {"LEVEL": "${DEMO_LEVEL}"}})
        write(home / "keys.yaml", cluster, echo_spec("echo"))
        words = ["cloudera", "application", "create", "keys.yaml", "--env", "DEMO_LEVEL"]
        assert run([*words, "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["variables"] == ["DEMO_API_KEY"]
        assert "the specs use DEMO_API_KEY; set them in the project's settings" in err
        environment = created(bench)["environment"]
        assert environment["DEMO_LEVEL"] == "info"
        assert "DEMO_API_KEY" not in environment
        sent = json.dumps([call.body for call in bench.calls])
        for secret in ("sk-very-secret", bench.project.apiv2_key, bench.project.api_key):
            assert secret not in sent + out + err

    @pytest.mark.parametrize(
        ("name", "words"),
        [("NOT_SET_HERE", "is not set here"), ("CDSW_APIV2_KEY", "gets its own")],
    )
    def test_variables_that_cannot_be_passed(
        self, bench: Workbench, home: Path, answer: Answer, name: str, words: str
    ) -> None:
        line = ["cloudera", "application", "create", "specs/demo.yaml", "--env", name]
        assert words in answer(*line, status=2)["error"]["message"]
        assert bench.made("POST", "") == []

    def test_spec_outside_of_the_project(
        self, bench: Workbench, home: Path, answer: Answer, tmp_path: Path
    ) -> None:
        write(tmp_path / "far.yaml", cluster_spec("demo"), echo_spec("echo"))
        line = ["cloudera", "application", "create", str(tmp_path / "far.yaml")]
        error = answer(*line, status=2)["error"]
        assert "outside of the project's files" in error["message"]
        assert bench.calls == []

    @pytest.mark.parametrize(
        ("documents", "code"),
        [
            ([cluster_spec("a"), cluster_spec("b"), echo_spec("echo")], "CAI-SPEC-007"),
            ([cluster_spec("a")], "CAI-SPEC-007"),
            ([{"kind": "Cluster", "name": "a", "wrong": 1}], "CAI-SPEC-003"),
        ],
    )
    def test_specs_that_serve_would_refuse(
        self,
        bench: Workbench,
        home: Path,
        answer: Answer,
        documents: list[dict[str, Any]],
        code: str,
    ) -> None:
        write(home / "bad.yaml", *documents)
        error = answer("cloudera", "application", "create", "bad.yaml", status=2)["error"]
        assert error["code"] == code
        assert bench.calls == []

    def test_open_needs_a_key(self, bench: Workbench, home: Path, answer: Answer) -> None:
        bench.knobs.bypass_allowed = True
        line = ["cloudera", "application", "create", "specs/demo.yaml", "--bypass-authentication"]
        assert answer(*line, status=2)["error"]["code"] == "CAI-SPEC-008"
        keyed = cluster_spec("demo", gateway={"port": "auto", "api_keys": ["k"]})
        write(home / "specs" / "demo.yaml", keyed, echo_spec("echo"))
        answer(*line)
        assert created(bench)["bypass_authentication"] is True
        assert created(bench)["environment"]["CAI_PUBLIC"] == "1"

    def test_refused_in_the_platforms_words(
        self, bench: Workbench, home: Path, answer: Answer
    ) -> None:
        line = ["cloudera", "application", "create", "specs/demo.yaml", "--subdomain", "No_"]
        error = answer(*line, status=1)["error"]
        assert error["code"] == "CAI-PROVIDER-002"
        assert "Problem with field Subdomain" in error["message"]

    def test_replace(self, bench: Workbench, home: Path, answer: Answer) -> None:
        line = ["cloudera", "application", "create", "specs/demo.yaml"]
        answer(*line)
        (before,) = bench.applications()
        assert "already" in answer(*line, status=1)["error"]["message"]
        data = answer(*line, "--replace")
        assert [action["verb"] for action in data["actions"]] == ["delete", "create"]
        (after,) = bench.applications()
        assert after.id != before.id

    def test_a_script_that_is_not_ours(self, bench: Workbench, home: Path, answer: Answer) -> None:
        (home / "cai_entrypoint.py").write_text("print('mine')\n")
        line = ["cloudera", "application", "create", "specs/demo.yaml"]
        assert answer(*line, status=1)["error"]["code"] == "CAI-PROVIDER-006"
        assert bench.made("POST", "") == []


class TestApplications:
    @pytest.fixture
    def foreign(self, bench: Workbench) -> str:
        """An application that somebody else made."""
        (bench.project.home / "app.py").touch()
        body = {"name": "theirs", "subdomain": "theirs", "script": "app.py"}
        image = {"runtime_identifier": RUNTIME["image_identifier"]}
        bench.applications.create(body | image | {"environment": {"A": "1"}})
        return "theirs"

    def test_list_has_ours(
        self, bench: Workbench, home: Path, answer: Answer, foreign: str
    ) -> None:
        answer("cloudera", "application", "create", "specs/demo.yaml")
        bench.applications.called("cai demo").status = "FAILED"
        node = {"name": "cai demo gpu-0 1234", "subdomain": "demo-gpu-0", "script": "app.py"}
        image = {"runtime_identifier": RUNTIME["image_identifier"]}
        bench.applications.create(node | image | {"environment": {PLAN_VARIABLE: "{}"}})
        rows = answer("cloudera", "application", "list")["applications"]
        seen = {(row["name"], row["kind"], row["state"]) for row in rows}
        assert seen == {
            ("cai demo", "serve", "failed"),
            ("cai demo gpu-0 1234", "node", "starting"),
        }

    def test_table(self, bench: Workbench, home: Path, capsys: Captured) -> None:
        assert run(["cloudera", "application", "create", "specs/demo.yaml"]) == 0
        url = capsys.readouterr().out.strip()
        assert run(["cloudera", "application", "list"]) == 0
        header, row = capsys.readouterr().out.splitlines()
        assert header.split() == ["NAME", "KIND", "STATE", "URL"]
        assert row.split() == ["cai", "demo", "serve", "starting", url]

    def test_delete(self, bench: Workbench, home: Path, answer: Answer) -> None:
        answer("cloudera", "application", "create", "specs/demo.yaml")
        line = ["cloudera", "application", "delete", "cai demo"]
        assert answer(*line, status=2)["error"]["code"] == "CAI-CLI-002"
        assert len(bench.applications()) == 1
        assert [a["verb"] for a in answer(*line, "--yes")["actions"]] == ["delete"]
        assert bench.applications() == []
        assert answer(*line, "--yes")["actions"] == []

    def test_another_ones_is_not_deleted(
        self, bench: Workbench, home: Path, answer: Answer, foreign: str
    ) -> None:
        line = ["cloudera", "application", "delete", foreign, "--yes"]
        assert "was not made by cai" in answer(*line, status=2)["error"]["message"]
        line = ["cloudera", "application", "create", "specs/demo.yaml", "--name", foreign]
        answer(*line, "--replace", status=2)
        assert len(bench.applications()) == 1

    @pytest.mark.parametrize("noun", ["application", "job"])
    def test_outside_a_workload(
        self, answer: Answer, monkeypatch: pytest.MonkeyPatch, noun: str
    ) -> None:
        for name in ("CDSW_API_URL", "CDSW_DOMAIN"):
            monkeypatch.delenv(name, raising=False)
        error = answer("cloudera", noun, "list", status=2)["error"]
        assert error["code"] == "CAI-PROVIDER-001"

    def test_a_page_in_place_of_data(self, bench: Workbench, home: Path, answer: Answer) -> None:
        bench.faults.append(Fault("GET", "/applications$", 302, b"", {"Location": "/login"}))
        error = answer("cloudera", "application", "list", status=1)["error"]
        assert error["code"] == "CAI-PROVIDER-003"


class TestJobs:
    def test_what_is_asked(self, bench: Workbench, home: Path, answer: Answer) -> None:
        words = ["--schedule", "0 6 * * *", "--timeout", "90m", "--name", "nightly", "--cpu", "2"]
        command = ["--", "python", "-c", "print('a b')"]
        line = ["cloudera", "job", "create", "specs/demo.yaml"]
        data = answer(*line, *words, *command)
        body = created(bench, "jobs")
        arguments = "serve specs/demo.yaml -- python -c 'print('\"'\"'a b'\"'\"')'"
        assert body["arguments"] == arguments
        assert body["environment"]["CAI_ARGUMENTS"] == arguments
        assert (body["schedule"], body["timeout"]) == ("0 6 * * *", 5400)
        assert body["kill_on_timeout"] is True
        assert (body["name"], body["cpu"]) == ("nightly", 2.0)
        assert data["job"]["state"] == "not run"
        assert bench.made("POST", "/runs$") == []

    def test_needs_a_command(self, bench: Workbench, home: Path, answer: Answer) -> None:
        error = answer("cloudera", "job", "create", "specs/demo.yaml", status=2)["error"]
        assert "no COMMAND" in error["message"]
        assert bench.calls == []

    def test_run_list_delete(self, bench: Workbench, home: Path, answer: Answer) -> None:
        """The run is a real one; what it finds is a spec that got wrong meanwhile."""
        bench.knobs.runs_workloads = True
        line = ["cloudera", "job", "create", "specs/demo.yaml"]
        data = answer(*line, "--name", "once", "--", "true")
        (home / "specs" / "demo.yaml").write_text("kind: Nothing\n")
        assert data["job"]["run"] is None
        bench.jobs.run(data["job"]["id"], {})
        until(lambda: self._state(answer) == "failed", 60, "the end of the run")
        (job,) = bench.jobs.all
        assert "CAI-SPEC" in job.runs[0].workload.console.read_text()
        answer("cloudera", "job", "delete", "once", "--yes")
        assert bench.jobs.all == []
        assert answer("cloudera", "job", "delete", "once", "--yes")["actions"] == []

    def test_run_at_once(self, bench: Workbench, home: Path, capsys: Captured) -> None:
        line = ["cloudera", "job", "create", "specs/demo.yaml", "--run", "--", "true"]
        assert run(line) == 0
        (job,) = bench.jobs.all
        assert capsys.readouterr().out.splitlines()[-1] == job.runs[0].workload.id

    def test_exists_already(self, bench: Workbench, home: Path, answer: Answer) -> None:
        line = ["cloudera", "job", "create", "specs/demo.yaml", "--", "true"]
        answer(*line)
        error = answer(*line, status=1)["error"]
        assert 'there is a job "cai demo" already' in error["message"]
        assert "cai cloudera job delete 'cai demo'" in error["hint"]

    def _state(self, answer: Answer) -> str:
        (row,) = answer("cloudera", "job", "list")["jobs"]
        return str(row["state"])
