"""Deploying models on a running cluster. The caller holds the lock and is connected to Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, now
from ray_serve_cai.errors import ModelError
from ray_serve_cai.plan.model import (
    ModelFacts,
    ModelPlan,
    Revision,
    plan_model,
)
from ray_serve_cai.serving.applications import (
    application_status,
    delete_application,
    start_application,
)
from ray_serve_cai.serving.facts import check, node_rooms, transports
from ray_serve_cai.serving.gateway_control import ask, find_gateway, wait_until
from ray_serve_cai.serving.job import ReplicaJob, ReplicaRow
from ray_serve_cai.serving.readiness import first_token
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.spec import Document

Report = Callable[..., None]

POLL_SECONDS = 0.25
# Serve's own status costs its controller more than the gateway's rows cost the gateway.
STATUS_SECONDS = 2.0
# For replicas that nobody waits for.
RESTART_SECONDS = 1800.0


class Deployer:
    """Deploys, scales and deletes the models of one cluster."""

    def __init__(self, state: ClusterState, record: ClusterRecord) -> None:
        self._state = state
        self._record = record
        self._revisions = Revisions(state)
        self._status_due = 0.0

    def plan(self, document: Document) -> ModelPlan:
        """What `deploy` of this document would do now; checks all that can be checked before
        anything is held. Raises `PlanError`, `EngineError`, `StorageError`, `ModelError`."""
        spec = document.model
        check(document)
        active = self._revisions.active(spec.name)
        current = None
        if active is not None:
            current = Revision(active.revision, active.digest, active.replicas)
        facts = ModelFacts(
            nodes=node_rooms(),
            transports=transports(document),
            current=current,
            next_revision=self._revisions.next_number(spec.name),
            healthy=active is None or self._serves(active),
        )
        return plan_model(spec, facts)

    def deploy(
        self,
        document: Document,
        plan: ModelPlan,
        *,
        report: Report,
        timeout: float,
        wait: bool = True,
    ) -> None:
        """Execute the plan and return when the model answers through the gateway.

        After a failure, time-out or interrupt the new revision is removed and the old one serves.
        Without `wait`, `finish` has the rest to do.
        """
        if plan.strategy == "none":
            return
        before = self._revisions.active(plan.name)
        self._clear_half_made(plan.name)
        self._state.add_variables(document.variables)
        record = self._new_record(document, plan)
        if plan.strategy == "scale" and before is not None:
            record = before
            record.replicas, record.raw = plan.replicas, document.raw
        self._revisions.save(record)
        if plan.strategy == "stop-then-start" and before is not None:
            report("stopping", f"revision {before.revision}")
            delete_application(self._record.name, plan.name, before.revision)
        try:
            start_application(plan, self._job(document, record, timeout))
        except BaseException as error:
            self._give_up(record, error, report)
            raise
        if wait:
            self.finish(record, report=report, timeout=timeout)

    def finish(
        self, record: RevisionRecord, *, report: Report, timeout: float, undo: bool = True
    ) -> None:
        """Wait for a revision that was started, then let it take the old one's place.

        Without `undo` only a failure of the model removes it, not a time-out or interrupt.
        """
        before = self._revisions.active(record.model)
        try:
            self._wait(record, report, time.monotonic() + timeout)
        except BaseException as error:
            if undo or (isinstance(error, ModelError) and error.code != "CAI-CLUSTER-006"):
                self._give_up(record, error, report)
            raise
        record.state = "active"
        self._revisions.save(record)
        if before is not None and before.revision != record.revision:
            before.state = "superseded"
            self._revisions.save(before)
            delete_application(self._record.name, before.model, before.revision)

    def delete(self, model: str) -> bool:
        """Remove the model; False when there was none."""
        revisions = self._revisions.shown(model)
        for record in revisions:
            delete_application(self._record.name, model, record.revision)
        self._revisions.retire(model)
        return bool(revisions)

    def scale(self, model: str, replicas: int) -> ModelPlan:
        """Change the number of replicas until the next `deploy`; does not wait."""
        record = self._revisions.existing(model)
        document = self._revisions.document(record)
        spec = document.model.model_copy(update={"replicas": replicas})
        plan = self.plan(_with_spec(document, spec))
        if plan.strategy == "scale":
            record.replicas = replicas
            self._revisions.save(record)
            start_application(plan, self._job(document, record, RESTART_SECONDS))
        return plan

    def _wait(self, record: RevisionRecord, report: Report, deadline: float) -> None:
        gateway = find_gateway(self._record.name)
        report("scheduling", f"{record.replicas} replicas")

        def ready() -> bool:
            rows = self._rows(record)
            _raise_failure(rows, record)
            if time.monotonic() > self._status_due:
                self._status_due = time.monotonic() + STATUS_SECONDS
                self._raise_given_up(record)
            _report_phase(rows, record, report)
            return sum(row.phase == "ready" for row in rows) >= record.replicas

        if not wait_until(ready, deadline, POLL_SECONDS):
            raise ModelError("CAI-CLUSTER-006", _late(record, self._rows(record)))
        if not record.replicas:
            return
        endpoints = [row.endpoint for row in self._rows(record) if row.endpoint]
        report("ready", "waiting for the gateway")
        if not wait_until(lambda: ask(gateway.routed.remote(endpoints)), deadline, POLL_SECONDS):
            raise ModelError("CAI-CLUSTER-006", f'the gateway did not take up "{record.model}"')
        first_token(self._record.gateway_url, self._key(), record.model, deadline)

    def _give_up(self, record: RevisionRecord, error: BaseException, report: Report) -> None:
        """Remove the failed revision; if the old one had to make room for it, bring that back."""
        if record.state != "starting":
            return
        report("undoing", f"removing revision {record.revision}")
        delete_application(self._record.name, record.model, record.revision)
        record.state, record.message = "failed", str(error) or type(error).__name__
        self._revisions.save(record)
        before = self._revisions.active(record.model)
        if before is not None and not self._serves(before):
            report("undoing", f"starting revision {before.revision} again")
            document = self._revisions.document(before)
            old = plan_model(document.model, ModelFacts(node_rooms(), {before.transport: ""}))
            start_application(old, self._job(document, before, RESTART_SECONDS))

    def _clear_half_made(self, model: str) -> None:
        """A deploy that was killed leaves a revision that nobody waits for."""
        for record in self._revisions.of(model):
            if record.state == "starting":
                delete_application(self._record.name, model, record.revision)
                record.state, record.message = "failed", "its deploy was interrupted"
                self._revisions.save(record)

    def _serves(self, record: RevisionRecord) -> bool:
        status = application_status(self._record.name, record.model, record.revision)
        return status is not None and status.status.value not in ("DEPLOY_FAILED", "NOT_STARTED")

    def _raise_given_up(self, record: RevisionRecord) -> None:
        status = application_status(self._record.name, record.model, record.revision)
        if status is not None and status.status.value == "DEPLOY_FAILED":
            raise ModelError("CAI-MODEL-002", status.message or "Serve gave the deployment up")

    def _rows(self, record: RevisionRecord) -> list[ReplicaRow]:
        rows: list[ReplicaRow] = ask(find_gateway(self._record.name).replicas.remote())
        return [r for r in rows if (r.model, r.revision) == (record.model, record.revision)]

    def _new_record(self, document: Document, plan: ModelPlan) -> RevisionRecord:
        return RevisionRecord(
            model=plan.name,
            revision=plan.revision,
            state="starting",
            raw=document.raw,
            spec_path=str(document.path),
            project=str(document.project),
            digest=plan.digest,
            engine=plan.engine,
            transport=plan.transport,
            replicas=plan.replicas,
            created=now(),
        )

    def _job(self, document: Document, record: RevisionRecord, timeout: float) -> ReplicaJob:
        spec = document.model
        return ReplicaJob(
            cluster=self._record.name,
            model=spec.name,
            revision=record.revision,
            source=str(document.source),
            engine=spec.engine.type,
            engine_args=dict(spec.engine.args),
            transport=record.transport,
            env=dict(spec.env),
            log_folder=str(self._state.logs),
            api_keys=self._worker_keys(),
            memory=spec.resources.memory,
            cpu=spec.resources.cpu,
            gpu=spec.resources.gpu,
            start_timeout=timeout,
            project=str(document.project),
        )

    def _worker_keys(self) -> tuple[str, ...]:
        """What an HTTP replica must accept: the gateway's own key for its questions, and the
        clients' keys, which the gateway hands on with their requests."""
        keys = self._keys()
        return (self._state.internal_key(), *keys) if keys else ()

    def _keys(self) -> tuple[str, ...]:
        return self._state.document(self._record).cluster.gateway.api_keys

    def _key(self) -> str | None:
        return next(iter(self._keys()), None)


def _raise_failure(rows: list[ReplicaRow], record: RevisionRecord) -> None:
    """Serve would start the replica again; what failed once, at the first start, fails again."""
    for row in rows:
        if row.phase == "failed":
            raise ModelError("CAI-MODEL-002", f'model "{record.model}": {row.message}')


def _report_phase(rows: list[ReplicaRow], record: RevisionRecord, report: Report) -> None:
    order = ["starting", "downloading", "loading", "ready"]
    waiting = [row for row in rows if row.phase in order]
    if waiting:
        slowest = min(waiting, key=lambda row: order.index(row.phase))
        ready = sum(row.phase == "ready" for row in rows)
        phase = "scheduling" if slowest.phase == "starting" else slowest.phase
        report(phase, f"{ready} of {record.replicas} replicas ready")


def _late(record: RevisionRecord, rows: list[ReplicaRow]) -> str:
    phases = ", ".join(row.phase for row in rows) or "none was scheduled"
    return f'model "{record.model}" was not ready in time; its replicas: {phases}'


def _with_spec(document: Document, spec: Any) -> Document:
    from dataclasses import replace

    return replace(document, spec=spec)
