"""The platform's workers library in its variants, and what it does when it is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
from fakes.cloudera.platform import Platform
from fakes.cloudera.workload import Workload
from support import until

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers import cai_library
from ray_serve_cai.providers.cai_library import WorkersLibrary, find_library

Make = Callable[..., Platform]
Enter = Callable[[Workload], None]

SMALL = {"cpu": 0.5, "memory": 0.5, "code": "import time; time.sleep(600)"}
IDS = {"accelerator_label_id", "resource_profile_id", "resource_group_id"}


class TestFinding:
    @pytest.mark.parametrize("variant", ["cml", "cdsw"])
    def test_what_the_platform_put_there(
        self, variant: str, make_platform: Make, enter: Enter
    ) -> None:
        enter(make_platform(variant=variant).session())
        assert find_library().list() == {}

    def test_workload_without_library(self, make_platform: Make, enter: Enter) -> None:
        enter(make_platform(variant="neither").session())
        with pytest.raises(ClusterError, match="no workers library in this workload") as caught:
            find_library()
        assert caught.value.code == "CAI-PROVIDER-001"
        assert "cml.workers_v1: No module named 'cml'" in caught.value.message

    def test_outside(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder of the platform's may lie on the path elsewhere; it needs a workload."""
        monkeypatch.delenv("CDSW_ENGINE_ID")
        with pytest.raises(ClusterError, match="not inside a Cloudera AI workload") as caught:
            find_library()
        assert (caught.value.code, caught.value.exit) == ("CAI-PROVIDER-001", 2)

    @pytest.mark.parametrize(
        ("signature", "takes"), [("old", set()), ("current", IDS), ("named", IDS | {"name"})]
    )
    def test_parameters_of_the_live_signature(
        self, signature: str, takes: set[str], make_platform: Make, enter: Enter
    ) -> None:
        enter(make_platform(signature=signature).session())
        library = find_library()
        assert {name for name in IDS | {"name"} if library.takes(name)} == takes

    def test_function_without_a_signature(self) -> None:
        """Compiled, or wrapped so that it cannot be read: what each workbench takes is taken."""

        class Wrapped:
            __signature__ = "none"

            def __call__(self, **given: object) -> list[dict[str, object]]:
                return [{"id": "w1"}]

        module = ModuleType("cml.workers_v1")
        module.launch_workers = Wrapped()  # type: ignore[attr-defined]
        library = WorkersLibrary(module)
        assert library.takes("nvidia_gpu")
        assert not library.takes("name")
        assert library.launch(1, SMALL).ids == ("w1",)

    def test_parameter_that_is_not_there(self, make_platform: Make, enter: Enter) -> None:
        platform = make_platform(signature="old")
        enter(platform.session())
        words = r"takes no resource_group_id \(it takes n, cpu, memory"
        with pytest.raises(ClusterError, match=words) as caught:
            find_library().launch(1, {**SMALL, "resource_group_id": "7"})
        assert caught.value.code == "CAI-PROVIDER-002"
        assert platform.calls["launch"] == 0


class TestLaunch:
    def test_all_accepted(self, platform: Platform) -> None:
        launched = find_library().launch(3, SMALL)
        assert set(launched.ids) == set(platform.workers) == set(find_library().list())
        assert (launched.refusals, launched.half_made) == ((), ())

    def test_some_refused(self, platform: Platform) -> None:
        platform.knobs.quota = 1
        launched = find_library().launch(3, SMALL)
        assert set(launched.ids) == set(platform.workers)
        assert launched.refusals == ("Quota exceeded",) * 2

    def test_refused_late(self, platform: Platform) -> None:
        platform.knobs.refusals = 1
        platform.knobs.refusal = {"k8sMessage": "pods is forbidden", "engineId": ""}
        launched = find_library().launch(1, SMALL)
        assert launched.refusals == ("pods is forbidden",)
        assert set(launched.half_made) == platform.half_made != set()

    def test_call_that_failed(self, platform: Platform) -> None:
        platform.knobs.lost_posts = 1
        with pytest.raises(ClusterError, match="launch_workers: ") as caught:
            find_library().launch(1, SMALL)
        assert caught.value.code == "CAI-PROVIDER-003"

    def test_no_key(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CDSW_API_KEY")
        with pytest.raises(ClusterError, match="CDSW_API_KEY is not set") as caught:
            find_library().launch(1, SMALL)
        assert caught.value.code == "CAI-PROVIDER-003"


class TestList:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b'{"error": "upstream connect error"}', "answered upstream connect error, not"),
            (b'{"workers": []}', "answered dict, not a list"),
            (b"null", "answered NoneType, not a list"),
            (b'["a"]', "answered list, not a list of workers"),
            (b"<html>502 Bad Gateway</html>", "list_workers: JSONDecodeError"),
        ],
    )
    def test_no_list(self, platform: Platform, answer: bytes, words: str) -> None:
        platform.knobs.broken_lists, platform.knobs.broken_answer = 1, answer
        with pytest.raises(ClusterError, match=words) as caught:
            find_library().list()
        assert caught.value.code == "CAI-PROVIDER-003"
        assert find_library().list() == {}

    def test_no_answer_in_time(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library has no limit of its own."""
        monkeypatch.setitem(cai_library.LIMITS, "list_workers", 0.2)
        platform.knobs.stall = 60
        words = "list_workers: TimeoutError: no answer within 0.2 s"
        with pytest.raises(ClusterError, match=words) as caught:
            find_library().list()
        assert caught.value.code == "CAI-PROVIDER-003"


class TestStop:
    def test_nothing_to_stop_is_no_call(self, platform: Platform) -> None:
        """The library would stop every worker of the session."""
        find_library().launch(1, SMALL)
        find_library().stop([])
        assert platform.calls["stop"] == 0
        assert len(platform.live()) == 1

    def test_only_those_named(self, platform: Platform) -> None:
        first, second = find_library().launch(2, SMALL).ids
        find_library().stop([first])
        until(lambda: len(platform.live()) == 1, 10, "the end of the first")
        assert platform.live()[0].workload.id == second

    def test_missing_is_done(self, platform: Platform) -> None:
        find_library().stop(["0123456789abcdef"])
        assert platform.calls["stop"] == 1

    @pytest.mark.parametrize("status", [301, 400, 409, 429, 503])
    def test_not_done(self, platform: Platform, status: int) -> None:
        (worker,) = find_library().launch(1, SMALL).ids
        platform.knobs.bad_stops = [status]
        with pytest.raises(ClusterError, match=f"not stopped: {worker}: HTTP {status}") as caught:
            find_library().stop([worker])
        assert caught.value.code == "CAI-PROVIDER-003"
        assert len(platform.live()) == 1

    def test_gone_is_done(self, platform: Platform) -> None:
        platform.knobs.bad_stops = [410]
        find_library().stop(["0123456789abcdef"])
        assert platform.calls["stop"] == 1

    def test_not_allowed(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        (worker,) = find_library().launch(1, SMALL).ids
        monkeypatch.setenv("CDSW_API_KEY", "of-somebody-else")
        with pytest.raises(ClusterError, match=f"not stopped: {worker}: HTTP 401") as caught:
            find_library().stop([worker])
        assert caught.value.code == "CAI-PROVIDER-003"


class TestStandIn:
    """What the real library does by what is known of it, and `cai` must live with."""

    def test_text_for_a_number_fails(self, platform: Platform) -> None:
        with pytest.raises(TypeError):
            importlib.import_module("cml.workers_v1").launch_workers("2", 1, 1, code="1")

    def test_no_ids_means_all(self, platform: Platform) -> None:
        library = importlib.import_module("cml.workers_v1")
        assert library.stop_workers() is None
        library.launch_workers(2, 1, 1, code=SMALL["code"])
        assert [answer.status_code for answer in library.stop_workers()] == [204, 204]
        until(lambda: not platform.live(), 10, "the end of all")

    def test_address_and_times_come_late(self, platform: Platform) -> None:
        library = importlib.import_module("cml.workers_v1")
        platform.knobs.schedule = 3600
        (worker,) = library.launch_workers(1, 1, 1, code="1")
        assert set(worker) == {"id", "app_url", "status", "created_at"}
        (listed,) = library.list_workers()
        assert (listed["ip_address"], listed["status"]) == ("unknown", "scheduling")
        platform.knobs.schedule = 0
        until(lambda: library.list_workers()[0]["status"] == "succeeded", 10, "its end")
        assert {"running_at", "finished_at", "duration"} <= set(library.list_workers()[0])

    def test_waiting(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that is still pending is a failure, and may start later."""
        library = importlib.import_module("cml.workers_v1")
        monkeypatch.setattr(library, "POLL_SECONDS", 0.05)
        platform.knobs.gpus = 0
        (worker,) = library.launch_workers(1, 1, 1, nvidia_gpu=1, code=SMALL["code"])
        done = library.await_workers([worker], wait_for_completion=False, timeout_seconds=0.2)
        assert [failed["id"] for failed in done["failures"]] == [worker["id"]]
        platform.knobs.gpus = 1
        done = library.await_workers(ids=[worker["id"]], wait_for_completion=False)
        assert [each["status"] for each in done["workers"]] == ["running"]

    def test_as_the_old_module(self, platform: Platform) -> None:
        emulated = importlib.import_module("cml.utils_v1")._emulate_cdsw()
        assert emulated.list_workers() == []
