"""Deploying models on a running cluster. The caller holds the lock and is connected to Ray."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ray_serve_cai.cluster.ray_session import gcs_address
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError, ModelError, SpecProblems
from ray_serve_cai.plan import model as planning
from ray_serve_cai.plan import room
from ray_serve_cai.plan.model import ModelFacts, ModelPlan, Revision, plan_model
from ray_serve_cai.serving.facts import check, engine_of, front_of, node_rooms, transports
from ray_serve_cai.serving.following import follow, forget, pause, replicas_of
from ray_serve_cai.serving.job import log_name
from ray_serve_cai.serving.jobs import code_of, new_revision
from ray_serve_cai.serving.other_nodes import node_names
from ray_serve_cai.serving.placement import decide, placing
from ray_serve_cai.serving.rescaling import rescale
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions, owner_of
from ray_serve_cai.serving.rolling import end_replaced, roll, roll_back
from ray_serve_cai.serving.running import Running
from ray_serve_cai.spec import Document

Report = Callable[..., None]

STALE_SECONDS = 2.0
INTERRUPTED = "its deploy was interrupted"


class Deployer:
    """Deploys, scales and deletes the models of one cluster."""

    def __init__(self, state: ClusterState, record: ClusterRecord) -> None:
        self._state = state
        self._record = record
        self._revisions = Revisions(state)
        self._running = Running(state, record)

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
            and not starting.message
            and starting.digest == planning.digest_of(spec, code)
            and self._running.serves(starting)
        ):
            # Begun with `--no-wait`, or by a command that was killed: there is only to wait.
            active, starting = starting, None
        facts = ModelFacts(
            nodes=node_rooms(self._state),
            transports=transports(document),
            current=self._current(active) if active else None,
            next_revision=self._revisions.next_number(spec.name),
            healthy=active is None or self._running.serves(active),
            placed_by=", ".join(each.name for each in placing(document)),
            code=code,
            half_made=starting.revision if starting else None,
            replaced=tuple(it.revision for it in self._revisions.replaced(spec.name)),
            front=front_of(document),
            engine=engine_of(document),
        )
        try:
            return plan_model(spec, facts)
        except planning.NoFreeRoom:
            # Ray learns with a delay that what was just stopped has given its share back.
            time.sleep(STALE_SECONDS)
            return plan_model(spec, replace(facts, nodes=node_rooms(self._state)))

    def plan_again(self, record: RevisionRecord) -> tuple[Document, ModelPlan]:
        """What `deploy` of an earlier revision would do, with its code, its values and the count
        that the model has now. Raises what `plan` does."""
        document = self._revisions.again(record)
        plan = self.plan(document, self._revisions.code(record))
        return document, replace(plan, notes=(*plan.notes, f"revision {record.revision} again"))

    def deploy(
        self,
        document: Document,
        plan: ModelPlan,
        *,
        report: Report,
        timeout: float,
        wait: bool = True,
        repeats: RevisionRecord | None = None,
    ) -> ModelPlan:
        """Execute the plan and return when the model answers through the gateway; the plan is
        made anew, and that one returned, where an earlier deploy had left a half of its work.

        After a failure, time-out or interrupt the new revision is removed and the old one serves.
        Without `wait`, `finish` has the rest to do. `repeats` is the revision whose code it is.
        """
        code = code_of(document) if repeats is None else self._revisions.code(repeats)
        starting = self._revisions.starting(plan.name)
        if starting is None or starting.revision != plan.revision:
            if self._clear_half_made(plan.name, report):
                undone = tuple(action for action in plan.actions if action.verb == "delete")
                anew = self.plan(document, code)
                plan = replace(anew, notes=plan.notes, actions=(*undone, *anew.actions))
        elif wait or plan.strategy == "scale":
            # Its count can change only once it has the place of the one before it.
            self.finish(starting, report=report, timeout=timeout)
        if plan.strategy == "none":
            return plan
        before = self._revisions.active(plan.name)
        if plan.strategy == "scale" and before is not None:
            rescale(self._running, document, plan, before, report, timeout if wait else None)
            return plan
        record = new_revision(document, plan, repeats.revision if repeats else None)
        self._state.set_variables(document.variables, owner_of(record))
        self._revisions.save(record)
        self._revisions.save_code(record, code)
        try:
            if before is not None and before.range is not None:
                # Should the new one fail, what runs now is what comes back.
                before.replicas = pause(self._record.name, before)
                self._revisions.save(before)
            fits = self._place(document, plan, record, report)
            if before is not None and (plan.strategy == "stop-then-start" or not fits):
                report("stopping", f"revision {before.revision}")
                self._running.end(before)
            self._running.run(record, record.steps[0][0], timeout)
        except BaseException as error:
            self._give_up(record, error, report)
            raise
        if wait:
            self.finish(record, report=report, timeout=timeout)
        return plan

    def finish(
        self, record: RevisionRecord, *, report: Report, timeout: float, undo: bool = True
    ) -> None:
        """Wait for a revision that was started, and let it take the old one's place.

        Without `undo` only a failure of the model removes it, not a time-out or interrupt.
        """
        before = self._revisions.active(record.model)
        try:
            deadline = time.monotonic() + timeout
            roll(self._running, self._revisions, record, before, report, deadline)
        except BaseException as error:
            if undo or (isinstance(error, ModelError) and error.code != "CAI-CLUSTER-006"):
                self._give_up(record, error, report)
            raise
        # Before it is on record: who dies in between leaves a deploy that is not complete.
        follow(self._record.name, record)
        self._revisions.activate(record)
        end_replaced(self._running, self._revisions, record.model)

    def bring_back(self, model: str) -> RevisionRecord | None:
        """Start the model's last revision again where Serve has lost it; does not wait.

        None when it is there, or when there is none that ever served or was about to. Raises
        `CaiError` when it cannot be started.
        """
        record = self._revisions.last(model)
        if record is None or self._running.serves(record):
            return None
        end_replaced(self._running, self._revisions, model)
        self._restart(record)
        return record

    def delete(self, model: str) -> bool:
        """Remove the model; False when there was none."""
        revisions = self._revisions.shown(model)
        forget(self._record.name, model)
        for record in revisions:
            self._running.end(record)
        self._revisions.retire(model)
        return bool(revisions)

    def scale(self, model: str, replicas: int) -> ModelPlan:
        """Change the number of replicas until the next `deploy`; does not wait for new ones.

        Raises `ModelError`: CAI-MODEL-002 when the model does not run, CAI-MODEL-005 while it is
        being replaced.
        """
        record = self._revisions.existing(model)
        starting = self._revisions.starting(model)
        if starting is not None and starting.revision != record.revision:
            raise ModelError(
                "CAI-MODEL-005",
                f'model "{model}": revision {starting.revision} is taking the place of '
                f"{record.revision}",
            )
        end_replaced(self._running, self._revisions, model)
        document = self._revisions.document(record)
        spec = document.model.model_copy(update={"replicas": replicas})
        document = replace(document, spec=spec)
        plan = self.plan(document, self._revisions.code(record))
        if plan.strategy not in ("none", "scale"):
            raise ModelError(
                "CAI-MODEL-002", f'model "{model}" does not run; deploy it again before scaling it'
            )
        if plan.strategy == "scale":
            rescale(self._running, document, plan, record, lambda *_: None, None)
        return plan

    def _current(self, active: RevisionRecord) -> Revision:
        """The revision that serves, and where its replicas lie."""
        names = node_names()
        held = Counter(names.get(r.node_id, r.node_id) for r in self._running.rows(active))
        need = None
        if active.placement is None:
            with contextlib.suppress(SpecProblems):
                need = self._revisions.document(active).model.resources
        count = replicas_of(self._record.name, active)
        return Revision(active.revision, active.digest, count, held, need, active.range)

    def _place(
        self, document: Document, plan: ModelPlan, record: RevisionRecord, report: Report
    ) -> bool:
        """Note the placement over nodes, or let the hooks decide it, once for each deploy; whether
        there is room for theirs beside what runs."""
        planned = plan.parallel.placement if plan.parallel else None
        record.placement = dict(planned) if planned else None
        if not plan.placed_by:
            self._revisions.save(record)
            return True
        report("placing", f"asking {plan.placed_by}")
        log = self._state.logs / log_name(record.model, record.revision, "placement")
        decision = decide(document, gcs_address(), log)
        record.placement = decision.placement or record.placement
        record.custom_data = decision.custom_data
        self._revisions.save(record)
        if record.placement is None:
            return True
        rooms = node_rooms(self._state)
        room.check_placement(plan.name, record.placement, rooms, plan.replicas)
        return room.has_free_room(record.placement, rooms, plan.replicas)

    def _give_up(self, record: RevisionRecord, error: BaseException, report: Report) -> None:
        """Remove the failed revision; as far as the old one had to make room for it, bring that
        back.

        A second failure here is reported and does not take the first one's place.
        """
        report("undoing", f"removing revision {record.revision}")
        record.message = str(error) or INTERRUPTED
        try:
            # Should this process die here, the next deploy finds it and undoes the rest.
            self._revisions.save(record)
            before = self._revisions.active(record.model)
            try:
                roll_back(self._running, record, before, report)
            finally:
                if before is not None:
                    follow(self._record.name, before)
        except (CaiError, RayError, RayServeException, TimeoutError) as second:
            report("undoing", f"not complete: {second}")
        record.state = "failed"
        self._revisions.save(record)

    def _restart(self, record: RevisionRecord) -> None:
        """Raises `PlanError` when the nodes cannot hold it."""
        document = self._revisions.document(record)
        # As one that is there: Serve itself waits for the room of what was just stopped.
        here = Revision(record.revision, record.digest, record.replicas, range=record.range)
        facts = ModelFacts(
            node_rooms(self._state),
            {record.transport: ""},
            here,
            healthy=False,
            placed_by="its last deploy" if record.placement is not None else "",
            engine=engine_of(document),
        )
        plan_model(document.model, facts)
        # As the autoscaler counted last: what was idle stays so until it is asked.
        record.replicas = replicas_of(self._record.name, record)
        self._running.run(record, record.replicas)
        follow(self._record.name, record)

    def _clear_half_made(self, model: str, report: Report) -> bool:
        """Undo or complete what a deploy has left that was killed, or that nobody waited for;
        whether there was any."""
        ended = end_replaced(self._running, self._revisions, model)
        half_made = [it for it in self._revisions.of(model) if it.state == "starting"]
        for record in half_made:
            self._give_up(record, ModelError("CAI-MODEL-002", INTERRUPTED), report)
        return ended or bool(half_made)
