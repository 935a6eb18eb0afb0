"""Waiting for a revision's replicas until the model answers through the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from ray_serve_cai.errors import ModelError
from ray_serve_cai.serving.applications import application_status
from ray_serve_cai.serving.gateway_control import ask, find_gateway, first_token, wait_until
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.progress import late, raise_failure, report_phase
from ray_serve_cai.serving.revisions import RevisionRecord

Report = Callable[..., None]

POLL_SECONDS = 0.25
# Serve's own status costs its controller more than the gateway's rows cost the gateway.
STATUS_SECONDS = 2.0
_NOT_SERVED = ("DEPLOY_FAILED", "NOT_STARTED", "DELETING")


def wait_for_revision(
    cluster: str,
    record: RevisionRecord,
    report: Report,
    deadline: float,
    replicas: int | None = None,
    past: Collection[str] = (),
) -> None:
    """Return when all replicas, or `replicas` of them, are ready and one real token has come
    through the gateway. `past` are ids of replicas that had failed before, of `failures`.

    `deadline` is monotonic. Raises `ModelError`: CAI-CLUSTER-006 when that takes too long, else
    what made the replicas fail.
    """
    wanted = record.replicas if replicas is None else replicas
    if not wanted:
        return
    gateway = find_gateway(cluster)
    report("scheduling", f"{wanted} replicas")
    status_due = 0.0

    def ready() -> bool:
        nonlocal status_due
        rows = rows_of(cluster, record)
        raise_failure([row for row in rows if row.replica_id not in past], record)
        if time.monotonic() > status_due:
            status_due = time.monotonic() + STATUS_SECONDS
            _raise_given_up(cluster, record)
        report_phase(rows, record, report)
        return sum(row.phase == "ready" for row in rows) >= wanted

    if not wait_until(ready, deadline, POLL_SECONDS):
        raise ModelError("CAI-CLUSTER-006", late(record, rows_of(cluster, record)))
    endpoints = [row.endpoint for row in rows_of(cluster, record) if row.endpoint]
    report("ready", "waiting for the gateway")
    if not wait_until(lambda: ask(gateway.routed.remote(endpoints)), deadline, POLL_SECONDS):
        raise ModelError("CAI-CLUSTER-006", f'the gateway did not take up "{record.model}"')
    first_token(cluster, record.model, deadline)


def serves(cluster: str, record: RevisionRecord) -> bool:
    """Whether Serve has the revision and has not given it up, nor is about to end it; an idle one
    it need not have."""
    if not record.replicas and not record.range:
        return True
    status = application_status(cluster, record.model, record.revision)
    return status is not None and status.status.value not in _NOT_SERVED


def rows_of(cluster: str, record: RevisionRecord) -> list[ReplicaRow]:
    """What the revision's replicas say of themselves."""
    rows: list[ReplicaRow] = ask(find_gateway(cluster).replicas.remote())
    return [r for r in rows if (r.model, r.revision) == (record.model, record.revision)]


def failures(cluster: str, record: RevisionRecord) -> frozenset[str]:
    """Ids of the revision's replicas that have failed lately. Serve may have mended that."""
    rows = rows_of(cluster, record)
    return frozenset(row.replica_id for row in rows if row.phase == "failed")


def _raise_given_up(cluster: str, record: RevisionRecord) -> None:
    status = application_status(cluster, record.model, record.revision)
    if status is not None and status.status.value == "DEPLOY_FAILED":
        raise ModelError("CAI-MODEL-002", status.message or "Serve gave the deployment up")
