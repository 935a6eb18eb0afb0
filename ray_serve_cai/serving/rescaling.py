"""Another count, or another range, for a revision that runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_serve_cai.plan.model import ModelPlan
from ray_serve_cai.plan.scaling import range_of
from ray_serve_cai.serving.following import follow
from ray_serve_cai.serving.revisions import RevisionRecord
from ray_serve_cai.serving.running import Running
from ray_serve_cai.spec import Document

Report = Callable[..., None]


def rescale(
    running: Running,
    document: Document,
    plan: ModelPlan,
    record: RevisionRecord,
    report: Report,
    timeout: float | None,
) -> None:
    """Change only the count and what it follows; on failure the old ones come back.

    Waits for the replicas when there is a `timeout` (seconds).
    """
    before = record.replicas, record.range
    record.replicas, record.range = plan.replicas, range_of(document.model.replicas)
    # A model that follows a range has an application even while it has no replica.
    kept = before[1] is not None and record.range is not None
    # What crashed before, and was mended, says nothing of the new ones.
    past = running.failures(record)
    try:
        if plan.replicas and not kept:
            running.run(record, plan.replicas)
        follow(running.cluster, record, tell=kept)
        if timeout is not None:
            deadline = time.monotonic() + timeout
            running.wait(record, plan.replicas, report, deadline, past)
    except BaseException:
        record.replicas, record.range = before
        if not kept:
            running.run(record, record.replicas)
        follow(running.cluster, record, tell=kept)
        raise
    record.raw = document.raw
    running.keep(record, document.variables)
    if not plan.replicas and not kept:
        # After it is on record: a model that is idle has nothing to come back to.
        running.end(record)
