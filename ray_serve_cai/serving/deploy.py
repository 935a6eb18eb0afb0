"""Deploying models on a running cluster. The caller holds the lock and is connected to Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ray_serve_cai.cluster.ray_session import gcs_address
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError, ModelError
from ray_serve_cai.plan import model as planning
from ray_serve_cai.plan.model import ModelFacts, ModelPlan, Revision, plan_model
from ray_serve_cai.serving.applications import delete_application, start_application
from ray_serve_cai.serving.arrival import serves, wait_for_revision
from ray_serve_cai.serving.facts import check, node_rooms, transports
from ray_serve_cai.serving.gateway_control import ask, find_gateway
from ray_serve_cai.serving.job import ReplicaJob, log_name
from ray_serve_cai.serving.jobs import code_of, job_of, new_revision
from ray_serve_cai.serving.placement import decide, placing
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions, owner_of
from ray_serve_cai.spec import Document

Report = Callable[..., None]

# For replicas that nobody waits for.
RESTART_SECONDS = 1800.0
STALE_SECONDS = 2.0


class Deployer:
    """Deploys, scales and deletes the models of one cluster."""

    def __init__(self, state: ClusterState, record: ClusterRecord) -> None:
        self._state = state
        self._record = record
        self._revisions = Revisions(state)

    def plan(self, document: Document, code: str | None = None) -> ModelPlan:
        """What `deploy` of this document would do now; checks all that can be checked before
        anything is held. `code` is the user's, None for the project's as it is now.

        Raises `SpecProblems`, `PlanError`, `EngineError`, `StorageError`, `ModelError`.
        """
        spec = document.model
        check(document)
        code = code_of(document) if code is None else code
        active = self._revisions.active(spec.name)
        starting = self._revisions.starting(spec.name)
        if (
            starting is not None
            and starting.digest == planning.digest_of(spec, code)
            and self._serves(starting)
        ):
            # Begun with `--no-wait`, or by a command that was killed: there is only to wait.
            active = starting
        facts = ModelFacts(
            nodes=node_rooms(self._state),
            transports=transports(document),
            current=Revision(active.revision, active.digest, active.replicas) if active else None,
            next_revision=self._revisions.next_number(spec.name),
            healthy=active is None or self._serves(active),
            placed_by=", ".join(each.name for each in placing(document)),
            code=code,
        )
        try:
            return plan_model(spec, facts)
        except planning.NoFreeRoom:
            # Ray learns with a delay that what was just stopped has given its share back.
            time.sleep(STALE_SECONDS)
            return plan_model(spec, replace(facts, nodes=node_rooms(self._state)))

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
        starting = self._revisions.starting(plan.name)
        if starting is not None and starting.revision == plan.revision and wait:
            self.finish(starting, report=report, timeout=timeout)
        if plan.strategy == "none":
            return
        before = self._revisions.active(plan.name)
        if plan.strategy == "scale" and before is not None:
            self._rescale(document, plan, before, report, timeout if wait else None)
            return
        self._clear_half_made(plan.name)
        record = new_revision(document, plan)
        self._state.set_variables(document.variables, owner_of(record))
        self._revisions.save(record)
        self._revisions.save_code(record, code_of(document))
        try:
            room = self._place(document, plan, record, report)
            job = self._job(document, record, timeout)
            if before is not None and (plan.strategy == "stop-then-start" or not room):
                report("stopping", f"revision {before.revision}")
                delete_application(self._record.name, plan.name, before.revision)
            self._start(plan, job, record)
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

    def bring_back(self, model: str) -> RevisionRecord | None:
        """Start the model's last revision again where Serve has lost it; does not wait.

        None when it is there, or when there is none that ever served or was about to. Raises
        `CaiError` when it cannot be started.
        """
        record = self._revisions.last(model)
        if record is None or self._serves(record):
            return None
        self._restart(record)
        return record

    def delete(self, model: str) -> bool:
        """Remove the model; False when there was none."""
        revisions = self._revisions.shown(model)
        for record in revisions:
            delete_application(self._record.name, model, record.revision)
        self._revisions.retire(model)
        return bool(revisions)

    def scale(self, model: str, replicas: int) -> ModelPlan:
        """Change the number of replicas until the next `deploy`; does not wait for new ones.

        Raises `ModelError` (CAI-MODEL-002) when the model does not run.
        """
        record = self._revisions.existing(model)
        document = self._revisions.document(record)
        spec = document.model.model_copy(update={"replicas": replicas})
        plan = self.plan(replace(document, spec=spec), self._revisions.code(record))
        if plan.strategy not in ("none", "scale"):
            raise ModelError(
                "CAI-MODEL-002", f'model "{model}" does not run; deploy it again before scaling it'
            )
        if plan.strategy == "scale":
            self._rescale(document, plan, record, lambda *_: None, None)
        return plan

    def _rescale(
        self,
        document: Document,
        plan: ModelPlan,
        record: RevisionRecord,
        report: Report,
        timeout: float | None,
    ) -> None:
        """Change only the count; on failure the old count comes back."""
        before = record.replicas
        record.replicas = plan.replicas
        job = self._job(document, record, RESTART_SECONDS)
        try:
            if plan.replicas:
                self._start(plan, job, record)
            if timeout is not None:
                self._wait(record, report, time.monotonic() + timeout)
        except BaseException:
            self._start(replace(plan, replicas=before), job, record)
            raise
        record.raw = document.raw
        self._state.set_variables(document.variables, owner_of(record))
        self._revisions.save(record)
        if not plan.replicas:
            # After it is on record: a model that is idle has nothing to come back to.
            self._start(plan, job, record)

    def _start(self, plan: ModelPlan, job: ReplicaJob, record: RevisionRecord) -> None:
        """Ask Serve for the plan's replicas. Serve takes no count of zero: a revision without
        replicas has no application."""
        if not plan.replicas:
            delete_application(self._record.name, record.model, record.revision)
            return
        ask(find_gateway(self._record.name).admit.remote(record.model, record.revision))
        start_application(plan, job, record.placement)

    def _wait(self, record: RevisionRecord, report: Report, deadline: float) -> None:
        wait_for_revision(self._record.name, record, report, deadline)

    def _place(
        self, document: Document, plan: ModelPlan, record: RevisionRecord, report: Report
    ) -> bool:
        """Let the hooks decide the placement, once for each deploy; whether there is room for it
        beside what runs."""
        if not plan.placed_by:
            return True
        report("placing", f"asking {plan.placed_by}")
        log = self._state.logs / log_name(record.model, record.revision, "placement")
        decision = decide(document, gcs_address(), log)
        record.placement, record.custom_data = decision.placement, decision.custom_data
        self._revisions.save(record)
        if record.placement is None:
            return True
        rooms = node_rooms(self._state)
        planning.check_placement(plan.name, record.placement, rooms, plan.replicas)
        return planning.has_free_room(record.placement, rooms, plan.replicas)

    def _job(self, document: Document, record: RevisionRecord, timeout: float) -> ReplicaJob:
        code = self._revisions.code(record)
        return job_of(self._state, self._record, document, record, timeout, code)

    def _give_up(self, record: RevisionRecord, error: BaseException, report: Report) -> None:
        """Remove the failed revision; if the old one had to make room for it, bring that back.

        A second failure here is reported and does not take the first one's place.
        """
        report("undoing", f"removing revision {record.revision}")
        record.state, record.message = "failed", str(error) or type(error).__name__
        try:
            self._revisions.save(record)
            delete_application(self._record.name, record.model, record.revision)
            before = self._revisions.active(record.model)
            if before is not None and not self._serves(before):
                report("undoing", f"starting revision {before.revision} again")
                self._restart(before)
        except (CaiError, RayError, RayServeException, TimeoutError) as second:
            report("undoing", f"not complete: {second}")

    def _restart(self, record: RevisionRecord) -> None:
        document = self._revisions.document(record)
        # As one that is there: Serve itself waits for the room of what was just stopped.
        here = Revision(record.revision, record.digest, record.replicas)
        facts = ModelFacts(
            node_rooms(self._state),
            {record.transport: ""},
            here,
            healthy=False,
            placed_by="its hooks" if record.placement is not None else "",
        )
        plan = plan_model(document.model, facts)
        job = self._job(document, record, RESTART_SECONDS)
        self._start(replace(plan, replicas=record.replicas), job, record)

    def _clear_half_made(self, model: str) -> None:
        """A deploy that was killed leaves a revision that nobody waits for."""
        for record in self._revisions.of(model):
            if record.state == "starting":
                delete_application(self._record.name, model, record.revision)
                record.state, record.message = "failed", "its deploy was interrupted"
                self._revisions.save(record)

    def _serves(self, record: RevisionRecord) -> bool:
        return serves(self._record.name, record)
