"""The calls that the stand-in's REST API knows, each with what it does."""

from __future__ import annotations

import re
from typing import Any

from fakes.cloudera.answers import Row, page_of


def _create_application(bench: Any, call: Any) -> Row:
    return bench.applications.create(call.body)


def _stop_application(bench: Any, _: Any, one: str) -> Row:
    found = bench.applications.find(one)
    found.stop()
    return found.row()


def _restart_application(bench: Any, _: Any, one: str) -> Row:
    found = bench.applications.find(one)
    found.restart()
    return found.row()


def _delete_application(bench: Any, _: Any, one: str) -> Row:
    bench.applications.find(one).delete()
    return {}


def _delete_job(bench: Any, _: Any, job: str) -> Row:
    bench.jobs.delete(job)
    return {}


def _stop_run(bench: Any, _: Any, job: str, run: str) -> Row:
    found = bench.jobs.find_run(job, run)
    found.workload.stop()
    return found.row()


def _runs(bench: Any, call: Any, job: str) -> Row:
    return page_of(
        [run.row() for run in bench.jobs.find(job).runs],
        "job_runs",
        call.query,
        bench.knobs.most_on_page,
    )


def _project(bench: Any, _: Any) -> Row:
    limit = bench.knobs.shared_memory_limit
    return {"id": bench.project.id, "shared_memory_limit": limit}


def _site_config(bench: Any, _: Any) -> Row:
    return {"max_gpu_per_engine": bench.knobs.most_gpus, "enable_register_runtimes": False}


def _applications(bench: Any, call: Any) -> Row:
    return page_of(
        [one.row() for one in bench.applications()],
        "applications",
        call.query,
        bench.knobs.most_on_page,
    )


def _jobs(bench: Any, call: Any) -> Row:
    return page_of(
        [job.row() for job in bench.jobs.all], "jobs", call.query, bench.knobs.most_on_page
    )


def _runtimes(bench: Any, call: Any) -> Row:
    return page_of(bench.knobs.runtimes, "runtimes", call.query, bench.knobs.most_on_page)


P = re.escape("{p}")
ONE = "([0-9a-z-]+)"
APP = f"{P}/applications/{ONE}"
JOB = f"{P}/jobs/{ONE}"
RUN = f"{JOB}/runs/{ONE}"
# Method, pattern with `{p}` for the project, and what answers.
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", f"{P}/applications", _applications),
    ("POST", f"{P}/applications", _create_application),
    ("GET", APP, lambda bench, call, one: bench.applications.find(one).row()),
    ("DELETE", APP, _delete_application),
    ("POST", f"{APP}:stop", _stop_application),
    ("POST", f"{APP}:restart", _restart_application),
    ("GET", f"{P}/jobs", _jobs),
    ("POST", f"{P}/jobs", lambda bench, call: bench.jobs.create(call.body)),
    ("GET", JOB, lambda bench, call, job: bench.jobs.find(job).row()),
    ("DELETE", JOB, _delete_job),
    ("GET", f"{JOB}/runs", _runs),
    ("POST", f"{JOB}/runs", lambda bench, call, job: bench.jobs.run(job, call.body)),
    ("GET", RUN, lambda bench, call, job, run: bench.jobs.find_run(job, run).row()),
    ("POST", f"{RUN}:stop", _stop_run),
    ("GET", P, _project),
    ("GET", "/api/v2/runtimes", _runtimes),
    ("GET", "/api/v2/nodelabels", lambda bench, _: {"accelerator_node_label": bench.knobs.labels}),
    ("GET", "/api/v1/site/config", _site_config),
]
