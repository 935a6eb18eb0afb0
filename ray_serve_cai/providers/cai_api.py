"""Applications, jobs, runtimes and GPU labels of one Cloudera AI project, over REST API v2.

What the platform's answers look like, and how sure that is: docs/cloudera-ai.md.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers.base import NodeState
from ray_serve_cai.providers.cai_http import Http, NotThereError, UnclearError

Row = dict[str, Any]

# The platform's own default is 10; it does not say what its most is.
PAGE_SIZE = 1000
CREATE_ATTEMPTS = 3
LATE_SECONDS = 1.0
# A stop that is answered at all is answered at once, and many stops wait for one another.
STOP_ANSWER_SECONDS = 5.0

# Tells what this very call made from what was there: a create that timed out may have worked.
LAUNCH_VARIABLE = "CAI_LAUNCH"

# Statuses without their prefix. A word that is not here is one more way of not being settled.
STATES: dict[str, NodeState] = {
    "UNKNOWN": "pending",
    "SCHEDULING": "pending",
    "STARTING": "pending",
    "RUNNING": "running",
    "STOPPING": "lost",
    "STOPPED": "lost",
    "SUCCEEDED": "lost",
    "FAILED": "lost",
    "TIMEDOUT": "lost",
    "SKIPPED": "lost",
}
PREFIXES = ("APPLICATION_", "ENGINE_")
# Nothing runs any more.
ENDED = {"STOPPED", "SUCCEEDED", "FAILED", "TIMEDOUT", "SKIPPED"}


class Api:
    """One project. All ids are the platform's own."""

    def __init__(self, http: Http, project: str, domain: str) -> None:
        self.project = project
        self._http = http
        self._domain = domain

    @classmethod
    def from_environment(cls) -> Api:
        """As a workload's variables say; raises `ClusterError` (CAI-PROVIDER-001, -004)."""
        http = Http.from_environment()
        project = os.environ.get("CDSW_PROJECT_ID", "").strip()
        if not project:
            raise ClusterError("CAI-PROVIDER-001", "CDSW_PROJECT_ID is not set")
        domain = os.environ.get("CDSW_DOMAIN", "").strip().rstrip("/")
        return cls(http, project, domain or http.url)

    def url_of(self, subdomain: str) -> str:
        """Where an application answers. The platform's answers do not say it."""
        scheme = self._http.url.partition("://")[0]
        return f"{scheme}://{subdomain}.{self._domain.rpartition('://')[2]}"

    def applications(self) -> list[Row]:
        return self._all(self._path("applications"), "applications")

    def create_application(self, body: Mapping[str, Any]) -> Row:
        """Create and so start one; its name must be free. `body` is not changed."""
        return self._create("applications", body, self.applications)

    def stop_application(self, application: str) -> None:
        """Ask for its end. Known to time out, and not repeated then."""
        try:
            path = self._path("applications", f"{application}:stop")
            self._http.post(path, {}, seconds=STOP_ANSWER_SECONDS)
        except NotThereError:
            return

    def delete_application(self, application: str) -> None:
        """Ask for its end; it is gone only when `applications` no longer has it."""
        self._quietly("DELETE", self._path("applications", application))

    def jobs(self) -> list[Row]:
        return self._all(self._path("jobs"), "jobs")

    def create_job(self, body: Mapping[str, Any]) -> Row:
        return self._create("jobs", body, self.jobs)

    def delete_job(self, job: str) -> None:
        self._quietly("DELETE", self._path("jobs", job))

    def runs(self, job: str) -> list[Row]:
        """The job's runs, newest first."""
        runs = self._all(self._path("jobs", job, "runs"), "job_runs")
        return sorted(runs, key=lambda run: str(run.get("created_at")), reverse=True)

    def create_run(self, job: str) -> Row:
        """Start the job once. A call without an answer is not repeated: it would run twice."""
        return self._http.post(self._path("jobs", job, "runs"), {})

    def stop_run(self, job: str, run: str) -> None:
        self._quietly("POST", self._path("jobs", job, "runs", f"{run}:stop"))

    def runtimes(self) -> list[Row]:
        return self._all("/runtimes", "runtimes")

    def node_labels(self) -> list[Row]:
        return self._all("/nodelabels", "accelerator_node_label")

    def _path(self, *parts: str) -> str:
        return "/".join((f"/projects/{self.project}", *parts))

    def _all(self, path: str, key: str) -> list[Row]:
        rows: list[Row] = []
        page: dict[str, Any] = {"page_size": PAGE_SIZE}
        while True:
            data = self._http.get(path, page)
            found = data.get(key) or []
            if not isinstance(found, list):
                raise UnclearError("CAI-PROVIDER-003", f'GET {path}: "{key}" is not a list')
            rows += found
            token = data.get("next_page_token")
            if not token:
                return rows
            page = {"page_size": PAGE_SIZE, "page_token": token}

    def _create(
        self, noun: str, body: Mapping[str, Any], listed: Callable[[], Sequence[Row]]
    ) -> Row:
        launch = secrets.token_hex(6)
        environment = {**body.get("environment", {}), LAUNCH_VARIABLE: launch}
        whole = {"project_id": self.project, **body, "environment": environment}
        unclear: UnclearError | None = None
        for _ in range(CREATE_ATTEMPTS):
            try:
                return self._http.post(self._path(noun), whole)
            except UnclearError as error:
                unclear = error
                # What goes on behind a call that broke off takes its time.
                time.sleep(LATE_SECONDS)
            except ClusterError:
                # Refused perhaps because the try before it has the name by now.
                if unclear is None or (made := _made(listed(), whole)) is None:
                    raise
                return made
            if (made := _made(listed(), whole)) is not None:
                return made
        assert unclear is not None
        raise unclear

    def _quietly(self, method: str, path: str) -> None:
        """What is not there is done."""
        try:
            self._http.repeat(method, path)
        except NotThereError:
            return


def word_of(row: Mapping[str, Any]) -> str:
    """The platform's status word without its prefix, in capitals."""
    word = str(row.get("status") or "UNKNOWN").upper()
    for prefix in PREFIXES:
        word = word.removeprefix(prefix)
    return word


def state_of(row: Mapping[str, Any]) -> NodeState:
    return STATES.get(word_of(row), "pending")


def environment_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Variables of an answer, which has them as JSON text."""
    given = row.get("environment")
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            return {}
    return dict(given) if isinstance(given, dict) else {}


def label_id(api: Api, value: str) -> str:
    """The id of the GPU label `value`, such as `NVIDIA-L4`.

    Raises `ClusterError` (CAI-PROVIDER-002) with the labels there are for one that is not.
    """
    labels = {str(row.get("label_value")): row.get("id") for row in api.node_labels()}
    if not (found := labels.get(value)):
        known = ", ".join(sorted(labels)) or "none"
        raise ClusterError(
            "CAI-PROVIDER-002", f'the workbench has no GPU labelled "{value}" (it has: {known})'
        )
    return str(found)


def own_runtime(api: Api) -> str:
    """The image of this workload, found by what the image says of itself.

    Editor, edition, kernel and full version together are unique on a workbench. Raises
    `ClusterError` (CAI-PROVIDER-001) where they do not lead to one image.
    """
    wanted = {
        key: os.environ.get(f"ML_RUNTIME_{key.upper()}")
        for key in ("editor", "edition", "kernel", "full_version")
    }
    short = os.environ.get("ML_RUNTIME_SHORT_VERSION", "")
    found = sorted(
        str(row["image_identifier"])
        for row in api.runtimes()
        if all(row.get(key) == value for key, value in wanted.items() if value)
        and str(row.get("full_version", "")).startswith(short)
    )
    if not wanted["kernel"] or len(found) != 1:
        seen = f"these fit: {', '.join(found)}" if found else "none fits"
        raise ClusterError(
            "CAI-PROVIDER-001",
            f"which image this workload runs is not clear from its ML_RUNTIME_ variables: {seen}",
            hint="Name the image: `provider.runtime_identifier` in a spec, `--runtime` elsewhere.",
        )
    return found[0]


def _made(rows: Sequence[Row], body: Mapping[str, Any]) -> Row | None:
    """The row that a call with this body made."""
    launch = body["environment"][LAUNCH_VARIABLE]
    named = (row for row in rows if row.get("name") == body["name"])
    return next((r for r in named if environment_of(r).get(LAUNCH_VARIABLE) == launch), None)
