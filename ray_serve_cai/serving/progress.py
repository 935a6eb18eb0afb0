"""How far a revision's replicas are, from what they told the gateway."""

from __future__ import annotations

from collections.abc import Callable

from ray_serve_cai.errors import ModelError
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.revisions import RevisionRecord

Report = Callable[..., None]


def raise_failure(rows: list[ReplicaRow], record: RevisionRecord) -> None:
    """Serve would start the replica again; what failed once, at the first start, fails again."""
    for row in rows:
        if row.phase == "failed":
            raise ModelError(row.code or "CAI-MODEL-002", f'model "{record.model}": {row.message}')


def report_phase(rows: list[ReplicaRow], record: RevisionRecord, report: Report) -> None:
    order = ["starting", "downloading", "loading", "ready"]
    waiting = [row for row in rows if row.phase in order]
    if waiting:
        slowest = min(waiting, key=lambda row: order.index(row.phase))
        ready = sum(row.phase == "ready" for row in rows)
        phase = "scheduling" if slowest.phase == "starting" else slowest.phase
        detail = f"{ready} of {record.replicas} replicas ready"
        if phase == "downloading" and slowest.message:
            detail += f"; {slowest.message}"
        report(phase, detail)


def late(record: RevisionRecord, rows: list[ReplicaRow]) -> str:
    phases = ", ".join(row.phase for row in rows) or "none was scheduled"
    return f'model "{record.model}" was not ready in time; its replicas: {phases}'
