"""Removing applications and jobs of Cloudera AI: stopped, deleted, and seen to be gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers.cai_api import ENDED, Api, Row, word_of

PARALLEL = 4
STOP_SECONDS = 45.0
GONE_SECONDS = 120.0
POLL_SECONDS = 1.0


def remove_applications(
    api: Api,
    ids: Collection[str],
    seconds: float = GONE_SECONDS,
    stop_seconds: float = STOP_SECONDS,
) -> None:
    """Stop and delete them, and return when the platform lists none of them.

    Their names are free only then. Those that have not ended `stop_seconds` after their stop are
    deleted all the same, and so are those that are not listed: a listing may lag behind a
    creation. Raises `ClusterError`, after all have been tried: that of the first deletion that
    failed, or CAI-PROVIDER-003 when some are still there after `seconds`.
    """
    if not ids:
        return
    ended = {row["id"] for row in api.applications() if word_of(row) in ENDED}
    # An application that runs while it is deleted can leave its engine behind. A stop that fails
    # hinders nothing.
    running = [one for one in ids if one not in ended]
    _each(api.stop_application, running)
    with suppress(ClusterError):
        _wait_until(lambda: _still(api, running, ended=True), stop_seconds)
    failed = _each(api.delete_application, ids)
    deleted = set(ids) - failed.keys()
    left = _wait_until(lambda: _still(api, deleted, ended=False), seconds)
    if failed:
        raise next(iter(failed.values()))
    if left:
        names = ", ".join(str(row.get("name")) for row in left)
        raise ClusterError(
            "CAI-PROVIDER-003", f"still there {seconds:.0f} s after their deletion: {names}"
        )


def remove_job(api: Api, job: str, seconds: float = GONE_SECONDS) -> None:
    """Stop what runs of it and delete it; raises `ClusterError` (CAI-PROVIDER-003) if it stays."""
    for run in _alive(api, job):
        api.stop_run(job, run["id"])
    _wait_until(lambda: _alive(api, job), STOP_SECONDS)
    api.delete_job(job)
    if _wait_until(lambda: [row for row in api.jobs() if row["id"] == job], seconds):
        raise ClusterError("CAI-PROVIDER-003", f"the job is still there after {seconds:.0f} s")


def _alive(api: Api, job: str) -> list[Row]:
    return [run for run in api.runs(job) if word_of(run) not in ENDED]


def _still(api: Api, ids: Collection[str], *, ended: bool) -> list[Row]:
    """Those of `ids` that are listed, without those that have `ended` where that is enough."""
    if not ids:
        return []
    rows = [row for row in api.applications() if row["id"] in ids]
    return [row for row in rows if not (ended and word_of(row) in ENDED)]


def _each(call: Callable[[str], None], ids: Iterable[str]) -> dict[str, BaseException]:
    """Make every call, whatever becomes of the others; what was raised, by id."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        calls = {one: pool.submit(call, one) for one in ids}
    return {one: error for one, made in calls.items() if (error := made.exception())}


def _wait_until(left: Callable[[], list[Row]], seconds: float) -> list[Row]:
    """What is left when nothing is, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while (rows := left()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return rows
