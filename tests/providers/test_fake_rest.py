"""The stand-in's REST API behaves as docs/cloudera-ai.md says the real one does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fakes.cloudera.applications import RUNTIME
from fakes.cloudera.rest import Workbench
from support import until

SERVER = """
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302 if os.path.exists("redirects") else 200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(self.headers["X-Asked"].encode() if "X-Asked" in self.headers else b"")
port = int(os.environ["CDSW_APP_PORT"])
http.server.HTTPServer(("127.0.0.1", port), Page).serve_forever()
"""


class Client:
    """Plain HTTP with the project's key."""

    def __init__(self, bench: Workbench) -> None:
        self.base = f"{bench.project.url}/api/v2/projects/{bench.project.id}"
        self.headers = {"Authorization": f"Bearer {bench.project.apiv2_key}"}

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = options.pop("headers", self.headers)
        return httpx.request(method, self.base + path, headers=headers, **options)

    def create(self, **keys: Any) -> httpx.Response:
        body = {"name": "one", "subdomain": "one", "script": "app.py"}
        image = {"runtime_identifier": RUNTIME["image_identifier"]}
        return self("POST", "/applications", json=body | image | keys)

    def status(self, application: str) -> str:
        return str(self("GET", f"/applications/{application}").json()["status"])


@pytest.fixture
def client(bench: Workbench) -> Client:
    (bench.project.home / "app.py").write_text(SERVER)
    return Client(bench)


@pytest.fixture
def idle(bench: Workbench, client: Client) -> Client:
    bench.knobs.runs_workloads = False
    return client


class TestLife:
    def test_runs_only_after_a_real_200(self, bench: Workbench, client: Client) -> None:
        (bench.project.home / "redirects").touch()
        bench.knobs.start_seconds = 60
        made = client.create().json()
        assert made["status"] == "APPLICATION_STARTING"
        (one,) = bench.applications()
        until(lambda: one.workload and _answers(one), 20, "the application's server")
        assert client.status(made["id"]) == "APPLICATION_STARTING"
        (bench.project.home / "redirects").unlink()
        until(lambda: client.status(made["id"]) == "APPLICATION_RUNNING", 20, "running")

    def test_fails_and_is_restarted_three_times(self, bench: Workbench, client: Client) -> None:
        (bench.project.home / "app.py").write_text("raise SystemExit(1)\n")
        bench.knobs.restart_seconds = 0.05
        client.create()
        (one,) = bench.applications()
        until(lambda: len(one.workloads) == 4 and one.status == "FAILED", 30, "its failures")
        assert len({workload.id for workload in one.workloads}) == 4

    def test_one_that_never_answers_fails(self, bench: Workbench, client: Client) -> None:
        (bench.project.home / "app.py").write_text("import time; time.sleep(600)\n")
        bench.knobs.start_seconds, bench.knobs.restarts = 0.3, 0
        made = client.create().json()
        until(lambda: client.status(made["id"]) == "APPLICATION_FAILED", 20, "its failure")

    def test_names_are_taken_until_it_is_gone(self, bench: Workbench, idle: Client) -> None:
        bench.knobs.delete_seconds = 0.5
        made = idle.create().json()
        assert idle("DELETE", f"/applications/{made['id']}").status_code == 200
        assert idle.create().status_code == 409
        until(lambda: idle("GET", f"/applications/{made['id']}").status_code == 404, 10, "404")
        assert idle.create().status_code == 200

    def test_restart_that_hangs(self, bench: Workbench, client: Client) -> None:
        made = client.create().json()
        until(lambda: client.status(made["id"]) == "APPLICATION_RUNNING", 20, "running")
        bench.knobs.restart_hangs = True
        answer = client("POST", f"/applications/{made['id']}:restart")
        assert answer.json()["status"] == "APPLICATION_STARTING"
        (one,) = bench.applications()
        assert one.workload is not None
        assert one.workload.status == "running"
        assert client.status(made["id"]) == "APPLICATION_STARTING"

    @pytest.mark.parametrize("path", ["/restart", "/stop"])
    def test_actions_have_a_colon(self, idle: Client, path: str) -> None:
        made = idle.create().json()
        assert idle("POST", f"/applications/{made['id']}{path}").status_code == 404


class TestBodies:
    def test_unknown_fields_are_dropped(self, idle: Client) -> None:
        made = idle.create(environment_variables={"A": "1"}, accelerator_label_id="7").json()
        assert made["environment"] == "{}"
        assert made["accelerator_label_id"] == "7"
        assert "environment_variables" not in made

    @pytest.mark.parametrize(
        "keys", [{"environment": '{"A": "1"}'}, {"environment": {"A": 1}}, {"cpu": "2"}]
    )
    def test_wrong_types_are_refused(self, idle: Client, keys: dict[str, Any]) -> None:
        answer = idle.create(**keys)
        assert answer.status_code == 400
        assert answer.json().keys() == {"error", "code", "message", "details"}
        assert answer.json()["code"] == 3

    def test_pages(self, bench: Workbench, idle: Client) -> None:
        for number in range(12):
            idle.create(name=f"app-{number}", subdomain=f"app-{number}")
        first = idle("GET", "/applications").json()
        assert len(first["applications"]) == 10
        token = {"page_token": first["next_page_token"]}
        last = idle("GET", "/applications", params=token | {"page_size": 10}).json()
        assert (len(last["applications"]), last["next_page_token"]) == (2, "")
        changed = idle("GET", "/applications", params=token | {"page_size": 20})
        assert changed.status_code == 400

    def test_filter_has_short_words(self, bench: Workbench, idle: Client) -> None:
        idle.create()
        for word, count in (("starting", 1), ("APPLICATION_STARTING", 0), ("running", 0)):
            wanted = {"search_filter": json.dumps({"status": word})}
            found = idle("GET", "/applications", params=wanted).json()["applications"]
            assert len(found) == count


class TestKeys:
    @pytest.mark.parametrize(
        ("header", "status", "words"),
        [
            ({}, 401, "missing authorization header"),
            ({"Authorization": "Bearer nonsense"}, 401, "invalid"),
            ({"Authorization": "Bearer eyJh.eyJz.c2ln"}, 500, "malformed apikey"),
        ],
    )
    def test_wrong_ones(
        self, idle: Client, header: dict[str, str], status: int, words: str
    ) -> None:
        answer = idle("GET", "/applications", headers=header)
        assert answer.status_code == status
        assert words in answer.json()["message"]

    def test_v1_takes_its_own_alone(self, bench: Workbench, idle: Client) -> None:
        url = f"{bench.project.url}/api/v1/site/config"
        assert httpx.get(url, headers=idle.headers).status_code == 401
        answer = httpx.get(url, auth=(bench.project.api_key, ""))
        assert answer.json()["max_gpu_per_engine"] == 4


class TestHosts:
    @pytest.fixture
    def url(self, bench: Workbench, client: Client) -> str:
        made = client.create().json()
        until(lambda: client.status(made["id"]) == "APPLICATION_RUNNING", 20, "running")
        return bench.project.url

    def test_login_page_without_a_key(self, bench: Workbench, url: str) -> None:
        answer = httpx.get(url, headers={"Host": f"one.{bench.project.domain}"})
        assert answer.status_code == 302
        assert "login" in answer.headers["location"]

    def test_key_lets_a_program_in(self, bench: Workbench, client: Client, url: str) -> None:
        (one,) = bench.applications()
        assert one.workload is not None
        for label in ("one", one.workload.id):
            host = {"Host": f"{label}.{bench.project.domain}", "X-Asked": "hello"}
            assert httpx.get(url, headers=host | client.headers).text == "hello"

    def test_open_to_everybody(self, bench: Workbench, url: str) -> None:
        (one,) = bench.applications()
        one.fields["bypass_authentication"] = True
        host = {"Host": f"one.{bench.project.domain}", "X-Asked": "hello"}
        assert httpx.get(url, headers=host).text == "hello"

    def test_no_such_host(self, bench: Workbench, url: str) -> None:
        host = {"Host": f"two.{bench.project.domain}"}
        assert httpx.get(url, headers=host).status_code == 404


def _answers(one: Any) -> bool:
    try:
        return bool(one.workload.get("/")[0] == 302)
    except OSError:
        return False
