"""The REST v2 client against the stand-in: what it sends, and what it makes of each trouble."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from fakes.cloudera.answers import SUBDOMAIN
from fakes.cloudera.applications import LABEL, RUNTIME
from fakes.cloudera.fixtures import set_up
from fakes.cloudera.project import Project
from fakes.cloudera.rest import Fault, Workbench

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers import cai_api
from ray_serve_cai.providers.cai_api import (
    LAUNCH_VARIABLE,
    Api,
    environment_of,
    label_id,
    own_runtime,
    state_of,
)
from ray_serve_cai.providers.cai_http import Http, UnclearError
from ray_serve_cai.providers.cai_removal import remove_applications, remove_job

APPLICATIONS = "/applications$"


@pytest.fixture
def api(bench: Workbench) -> Api:
    bench.knobs.runs_workloads = False
    (bench.project.home / "app.py").write_text("print('hello')\n")
    return Api.from_environment()


def body(name: str = "one", **keys: object) -> dict[str, object]:
    whole = {
        "name": name,
        "subdomain": name,
        "script": "app.py",
        "cpu": 1.0,
        "memory": 2.0,
        "runtime_identifier": RUNTIME["image_identifier"],
        "environment": {"CAI_ARGUMENTS": "serve a.yaml"},
    }
    return whole | keys


def refusal(call: object, *args: object) -> ClusterError:
    with pytest.raises(ClusterError) as raised:
        call(*args)  # type: ignore[operator]
    return raised.value


class TestWhatIsSent:
    def test_environment_is_a_map_and_comes_back_as_text(self, api: Api, bench: Workbench) -> None:
        made = api.create_application(body())
        (call,) = bench.made("POST", APPLICATIONS)
        assert call.body["environment"]["CAI_ARGUMENTS"] == "serve a.yaml"
        assert isinstance(made["environment"], str)
        assert environment_of(made)["CAI_ARGUMENTS"] == "serve a.yaml"

    def test_every_page(self, api: Api, bench: Workbench) -> None:
        bench.knobs.most_on_page = 4
        for number in range(11):
            api.create_application(body(f"app-{number}"))
        bench.calls.clear()
        assert len({row["id"] for row in api.applications()}) == 11
        calls = bench.made("GET", APPLICATIONS)
        assert len({call.query["page_size"] for call in calls}) == 1
        assert ["page_token" in call.query for call in calls] == [False, True, True]

    def test_the_key_is_a_bearer_and_nowhere_else(self, api: Api, bench: Workbench) -> None:
        api.create_application(body())
        key = bench.project.apiv2_key
        for call in bench.calls:
            assert call.headers["authorization"] == f"Bearer {key}"
            assert key not in call.path + str(call.query) + json.dumps(call.body)
        assert key not in f"{api!r} {vars(api)!r} {api._http!r}"

    def test_urls(self, api: Api, bench: Workbench) -> None:
        assert api.url_of("demo-1") == f"http://demo-1.{bench.project.domain}"


class TestCreate:
    @pytest.mark.parametrize("status", [0, 500, 503])
    def test_made_though_the_answer_was_lost(
        self, api: Api, bench: Workbench, status: int
    ) -> None:
        bench.faults.append(Fault("POST", APPLICATIONS, status, after=True))
        made = api.create_application(body())
        assert len(bench.made("POST", APPLICATIONS)) == 1
        assert [one.id for one in bench.applications()] == [made["id"]]

    def test_made_though_it_timed_out(self, api: Api, bench: Workbench) -> None:
        http = Http(bench.project.url, bench.project.apiv2_key, answer_seconds=0.3)
        patient = Api(http, bench.project.id, bench.project.domain)
        bench.faults.append(Fault("POST", APPLICATIONS, 200, after=True, seconds=1.0))
        made = patient.create_application(body())
        assert [one.id for one in bench.applications()] == [made["id"]]

    def test_not_made_is_made_again(self, api: Api, bench: Workbench) -> None:
        bench.faults.append(Fault("POST", APPLICATIONS, 502, b"<html>bad gateway</html>"))
        api.create_application(body())
        assert len(bench.made("POST", APPLICATIONS)) == 2
        assert len(bench.applications()) == 1

    def test_anothers_of_that_name_is_not_taken_for_ours(self, api: Api, bench: Workbench) -> None:
        theirs = api.create_application(body())
        bench.faults.append(Fault("POST", APPLICATIONS, 503))
        error = refusal(api.create_application, body(subdomain="two"))
        assert error.code == "CAI-PROVIDER-002"
        assert "this name exists already" in error.message
        assert [one.id for one in bench.applications()] == [theirs["id"]]

    def test_gives_up(self, api: Api, bench: Workbench) -> None:
        bench.faults.append(Fault("POST", APPLICATIONS, 503, times=100))
        error = refusal(api.create_application, body())
        assert error.code == "CAI-PROVIDER-003"
        assert "trouble (status 503)" in error.message

    def test_waits_as_told_when_there_are_too_many_calls(self, api: Api, bench: Workbench) -> None:
        bench.faults.append(Fault("POST", APPLICATIONS, 429, headers={"Retry-After": "1"}))
        begun = time.monotonic()
        api.create_application(body())
        assert time.monotonic() - begun >= 1
        assert len(bench.made("POST", APPLICATIONS)) == 2

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"subdomain": "Not_good"}, "Problem with field Subdomain"),
            ({"runtime_identifier": ""}, "runtime image must be specified"),
            ({"runtime_identifier": "nowhere/none:1"}, "is not registered"),
            ({"bypass_authentication": True}, "unauthenticated access"),
            ({"script": "missing.py"}, "is not a file of the project"),
            ({"nvidia_gpu": 100}, "exceed the maximum"),
        ],
    )
    def test_refusals_in_the_platforms_words(
        self, api: Api, bench: Workbench, keys: dict[str, object], words: str
    ) -> None:
        error = refusal(api.create_application, body(**keys))
        assert error.code == "CAI-PROVIDER-002"
        assert words in error.message
        assert len(bench.made("POST", APPLICATIONS)) == 1

    def test_a_run_is_never_started_twice(self, api: Api, bench: Workbench) -> None:
        job = api.create_job(body())
        bench.faults.append(Fault("POST", "/runs$", 503, after=True))
        assert isinstance(refusal(api.create_run, job["id"]), UnclearError)
        assert len(bench.jobs.all[0].runs) == 1

    def test_launch_marks_differ(self, api: Api) -> None:
        rows = [api.create_application(body(name)) for name in ("one", "two")]
        assert len({environment_of(row)[LAUNCH_VARIABLE] for row in rows}) == 2


class TestListing:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("GET", APPLICATIONS, 0),
            Fault("GET", APPLICATIONS, 500),
            Fault("GET", APPLICATIONS, 200, b"<html>please wait</html>"),
            Fault("GET", APPLICATIONS, 429, headers={"Retry-After": "0"}),
        ],
        ids=["cut", "500", "not-json", "429"],
    )
    def test_asks_again(self, api: Api, bench: Workbench, fault: Fault) -> None:
        fault.times = 1
        bench.faults.append(fault)
        assert api.applications() == []
        assert len(bench.made("GET", APPLICATIONS)) == 2

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Fault("GET", APPLICATIONS, 500, times=9), "status 500"),
            (Fault("GET", APPLICATIONS, 200, b"<html>", times=9), "not JSON"),
            (Fault("GET", APPLICATIONS, 200, b'{"applications": 3}', times=9), "not a list"),
            (
                Fault("GET", APPLICATIONS, 302, headers={"Location": "https://sso/x?s=1"}),
                "sent on to https://sso/x,",
            ),
        ],
        ids=["500", "not-json", "no-list", "login"],
    )
    def test_no_usable_answer(self, api: Api, bench: Workbench, fault: Fault, words: str) -> None:
        bench.faults[:] = [fault]
        error = refusal(api.applications)
        assert error.code == "CAI-PROVIDER-003"
        assert words in error.message

    def test_unknown_words_are_not_settled(self) -> None:
        words = ["APPLICATION_RUNNING", "ENGINE_FAILED", "APPLICATION_IMAGE_PULL", "", None]
        states = [state_of({"status": word}) for word in words]
        assert states == ["running", "lost", "pending", "pending", "pending"]


class TestKey:
    @pytest.mark.parametrize("key", ["wrong", "eyJhbGciOi.eyJzdWIi.c2lnbmF0"])
    def test_not_accepted(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv("CDSW_APIV2_KEY", key)
        error = refusal(Api.from_environment().applications)
        assert error.code == "CAI-PROVIDER-004"
        assert len(bench.calls) == 1
        assert key not in error.message + error.hint

    def test_echoed_by_the_platform(self, api: Api, bench: Workbench) -> None:
        key = bench.project.apiv2_key
        said = json.dumps({"message": f"the key {key} may not do that"}).encode()
        bench.faults.append(Fault("GET", APPLICATIONS, 403, said))
        error = refusal(api.applications)
        assert error.code == "CAI-PROVIDER-004"
        assert "the key *** may not do that" in error.message

    @pytest.mark.parametrize(
        ("missing", "code"),
        [
            (["CDSW_API_URL", "CDSW_DOMAIN"], "CAI-PROVIDER-001"),
            (["CDSW_PROJECT_ID"], "CAI-PROVIDER-001"),
            (["CDSW_APIV2_KEY"], "CAI-PROVIDER-004"),
        ],
    )
    def test_variables_that_are_missing(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch, missing: list[str], code: str
    ) -> None:
        for name in missing:
            monkeypatch.delenv(name)
        error = refusal(Api.from_environment)
        assert error.code == code
        assert missing[0] in error.message


class TestRemoval:
    def test_returns_when_the_name_is_free(self, bench: Workbench, api: Api) -> None:
        bench.knobs.delete_seconds = 0.5
        ids = [api.create_application(body(name))["id"] for name in ("one", "two")]
        kept = api.create_application(body("three"))
        remove_applications(api, ids)
        assert [row["id"] for row in api.applications()] == [kept["id"]]
        api.create_application(body("one"))

    def test_is_idempotent(self, bench: Workbench, api: Api) -> None:
        remove_applications(api, ["aaaa-bbbb-cccc-dddd"])
        remove_applications(api, [])
        assert len(bench.made("DELETE", "/aaaa-bbbb-cccc-dddd$")) == 1

    def test_one_refusal_keeps_no_other(self, bench: Workbench, api: Api) -> None:
        ids = [api.create_application(body(f"n{number}"))["id"] for number in range(40)]
        bench.faults.append(Fault("DELETE", f"/{ids[0]}$", 400))
        error = refusal(remove_applications, api, ids)
        assert error.code == "CAI-PROVIDER-002"
        assert [row["id"] for row in api.applications()] == [ids[0]]

    def test_listing_that_fails_while_they_stop(self, bench: Workbench, api: Api) -> None:
        one = api.create_application(body())["id"]
        stop = bench.applications.find(one).stop

        def stopped() -> None:
            stop()
            bench.faults.append(Fault("GET", "/applications$", 400))

        bench.applications.find(one).stop = stopped  # type: ignore[method-assign]
        remove_applications(api, [one])
        assert bench.applications() == []

    def test_stop_is_not_waited_for_long(
        self, bench: Workbench, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cai_api, "STOP_ANSWER_SECONDS", 0.1)
        one = api.create_application(body())["id"]
        bench.faults.append(Fault("POST", ":stop$", seconds=60, after=True))
        begun = time.monotonic()
        remove_applications(api, [one])
        assert time.monotonic() - begun < 10
        assert bench.applications() == []

    def test_a_stop_that_times_out_does_not_hinder(self, bench: Workbench, api: Api) -> None:
        one = api.create_application(body())["id"]
        bench.faults.append(Fault("POST", ":stop$", 400))
        bench.faults.append(Fault("DELETE", "", 503))
        bench.knobs.stop_is_ignored = True
        remove_applications(api, [one], stop_seconds=0.1)
        assert bench.applications() == []

    def test_says_what_stays(self, bench: Workbench, api: Api) -> None:
        bench.knobs.delete_seconds = 30
        one = api.create_application(body())["id"]
        error = refusal(remove_applications, api, [one], 0.2)
        assert error.code == "CAI-PROVIDER-003"
        assert "still there 0 s after their deletion: one" in error.message

    def test_jobs_with_their_runs(self, bench: Workbench, api: Api) -> None:
        bench.knobs.runs_workloads = True
        (bench.project.home / "app.py").write_text("import time; time.sleep(600)\n")
        job = api.create_job(body())["id"]
        run = api.create_run(job)
        assert api.runs(job)[0]["id"] == run["id"]
        remove_job(api, job)
        assert api.jobs() == []


class TestLookUps:
    def test_label(self, api: Api) -> None:
        assert label_id(api, "NVIDIA-L4") == LABEL["id"]
        error = refusal(label_id, api, "NVIDIA-H100")
        assert 'no GPU labelled "NVIDIA-H100" (it has: NVIDIA-L4)' in error.message

    def test_runtime_of_this_workload(self, api: Api) -> None:
        assert own_runtime(api) == RUNTIME["image_identifier"]

    def test_runtime_that_is_not_clear(
        self, api: Api, bench: Workbench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newer = RUNTIME | {"image_identifier": "other:2", "full_version": "2026.06.2-b7"}
        bench.knobs.runtimes.append(newer)
        error = refusal(own_runtime, api)
        assert error.code == "CAI-PROVIDER-001"
        assert "other:2" in error.message
        assert "provider.runtime_identifier" in error.hint
        monkeypatch.setenv("ML_RUNTIME_FULL_VERSION", "2026.06.2-b7")
        assert own_runtime(api) == "other:2"
        monkeypatch.delenv("ML_RUNTIME_KERNEL")
        assert refusal(own_runtime, api).code == "CAI-PROVIDER-001"

    def test_subdomains_of_the_stand_in_are_the_specs(self) -> None:
        good = [
            text for text in ("a", "a-1", "A", "a--b", "-a", "a-") if SUBDOMAIN.fullmatch(text)
        ]
        assert good == ["a", "a-1"]


class TestConnection:
    def test_private_authority(
        self, short_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority, certificate = tmp_path / "site.pem", tmp_path / "bench.pem"
        site = trustme.CA()
        site.cert_pem.write_to_path(authority)
        site.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        bench = Workbench(Project(short_home), certificate=certificate)
        with bench.serving():
            set_up(bench, monkeypatch)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
            assert Api.from_environment().applications() == []
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
            error = refusal(Api.from_environment().applications)
            assert error.code == "CAI-PROVIDER-003"
            assert "REQUESTS_CA_BUNDLE" in error.hint
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
            assert "SSL_CERT_FILE=" in refusal(Api.from_environment).message

    def test_through_the_sites_proxy(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", bench.project.url)
        monkeypatch.setenv("NO_PROXY", "")
        for name in ("http_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert Api.from_environment().applications() == []
        assert [call.proxied for call in bench.calls] == [True]

    def test_is_loaded_on_use_alone(self) -> None:
        code = "import sys, ray_serve_cai.providers.registry; print('httpx' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        assert done.stdout == "False\n"
