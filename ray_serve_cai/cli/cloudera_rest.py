"""What REST API v2 of the workbench says, asked with this workload's key; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_serve_cai.cli.cloudera_pod import finding, tried
from ray_serve_cai.cli.doctor_checks import Check
from ray_serve_cai.errors import ClusterError

if TYPE_CHECKING:
    from ray_serve_cai.providers.cai_api import Api

Row = dict[str, Any]

# Megabytes that the smallest of the known installations give to a project that runs Ray.
SHARED_MEMORY_LIMIT = 1000
LABELS_SHOWN = 8


def rest_checks() -> list[Check]:
    """Every look; only the first where the platform does not answer or not to this key."""
    from ray_serve_cai.providers.cai_api import Api

    assumed = "answers with this workload's key"
    try:
        api = Api.from_environment()
        applications = api.applications()
    except ClusterError as error:
        return [
            finding("REST API v2", False, f"{error.code}: {error.message}", assumed, error.hint)
        ]
    return [
        finding("REST API v2", True, f"{len(applications)} applications", assumed),
        _statuses("application statuses", applications),
        tried("job run statuses", lambda: _run_statuses(api)),
        tried("runtimes", lambda: _runtimes(api)),
        tried("own runtime", lambda: _own_runtime(api)),
        tried("GPU labels", lambda: _labels(api)),
        tried("shared memory limit", lambda: _shared_memory_limit(api.project)),
    ]


def _statuses(name: str, rows: Sequence[Row]) -> Check:
    from ray_serve_cai.providers.cai_api import STATES, word_of

    counts = Counter(str(row.get("status")) for row in rows)
    unknown = sorted({word_of(row) for row in rows} - STATES.keys())
    found = ", ".join(f"{count}x {word}" for word, count in counts.items()) or "none there"
    so = f"{', '.join(unknown)}: counts as pending; please report this line."
    return finding(name, not unknown, found, "words that cai knows", so)


def _run_statuses(api: Api) -> Check:
    jobs = api.jobs()[:LABELS_SHOWN]
    return _statuses("job run statuses", [run for job in jobs for run in api.runs(job["id"])])


def _runtimes(api: Api) -> Check:
    counts = Counter(f"{row.get('edition')} {row.get('status')}" for row in api.runtimes())
    found = ", ".join(f"{count}x {kind}" for kind, count in sorted(counts.items())) or "none"
    so = "Without runtimes no application or job can be made."
    return finding("runtimes", bool(counts), found, "some", so)


def _own_runtime(api: Api) -> Check:
    from ray_serve_cai.providers.cai_api import own_runtime

    found = own_runtime(api)
    return finding("own runtime", True, found, "found by the ML_RUNTIME_ variables")


def _labels(api: Api) -> Check:
    keys = ("label_value", "id", "current_gpu_count", "max_gpu_count", "max_gpu_per_workload")
    rows = [
        " ".join(f"{key}={row.get(key)}" for key in keys if key in row)
        for row in api.node_labels()
    ]
    more = f"; {len(rows) - LABELS_SHOWN} more" if len(rows) > LABELS_SHOWN else ""
    return finding(
        "GPU labels",
        True,
        ("; ".join(rows[:LABELS_SHOWN]) or "none") + more,
        "`accelerator` of a spec is one label_value",
    )


def _shared_memory_limit(project: str) -> Check:
    from ray_serve_cai.providers.cai_http import Http

    limit = str(Http.from_environment().get(f"/projects/{project}").get("shared_memory_limit", ""))
    ok = limit.isdigit() and int(limit) >= SHARED_MEMORY_LIMIT
    so = (
        "Raise Shared Memory Limit in the project's settings: Ray and vLLM exchange data in "
        "/dev/shm."
    )
    found = f"{limit} MB" if limit else "the project has no such field"
    return finding("shared memory limit", ok, found, f"at least {SHARED_MEMORY_LIMIT} MB", so)
