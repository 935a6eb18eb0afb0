"""Revisions as what Serve runs: so many replicas of each."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.serving.applications import delete_application, start_application
from ray_serve_cai.serving.arrival import failures, rows_of, serves, wait_for_revision
from ray_serve_cai.serving.gateway_control import ask, find_gateway
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.jobs import job_of
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions, owner_of

Report = Callable[..., None]

# For replicas that nobody waits for.
RESTART_SECONDS = 1800.0


class Running:
    """What runs of the revisions of one cluster."""

    def __init__(self, state: ClusterState, record: ClusterRecord) -> None:
        self._state, self._record = state, record
        self._revisions = Revisions(state)

    @property
    def cluster(self) -> str:
        return self._record.name

    def keep(self, record: RevisionRecord, variables: dict[str, str]) -> None:
        """Save the record, and the values that its spec was read with."""
        self._state.set_variables(variables, owner_of(record))
        self._revisions.save(record)

    def run(
        self, record: RevisionRecord, replicas: int, start_timeout: float = RESTART_SECONDS
    ) -> None:
        """Ask Serve for that many replicas of a saved revision and return without waiting for
        them; those beyond that number drain.

        A revision without replicas has no application, unless it follows its load, and this
        returns when that is gone.
        """
        if not replicas and record.range is None:
            self.end(record)
            return
        document = self._revisions.document(record)
        code = self._revisions.code(record)
        job = job_of(self._state, self._record, document, record, start_timeout, code)
        self.admit(record)
        start_application(job, replicas, document.model.resources, record.placement)

    def admit(self, record: RevisionRecord) -> None:
        """Let the gateway route to the revision's replicas, should it have dropped them."""
        ask(find_gateway(self._record.name).admit.remote(record.model, record.revision))

    def end(self, record: RevisionRecord) -> None:
        """Return when nothing of the revision runs."""
        delete_application(self._record.name, record.model, record.revision)

    def wait(
        self,
        record: RevisionRecord,
        replicas: int,
        report: Report,
        deadline: float,
        past: Collection[str] = (),
    ) -> None:
        """Return when that many replicas answer; see `wait_for_revision`."""
        wait_for_revision(self._record.name, record, report, deadline, replicas, past)

    def failures(self, record: RevisionRecord) -> frozenset[str]:
        return failures(self._record.name, record)

    def serves(self, record: RevisionRecord) -> bool:
        return serves(self._record.name, record)

    def rows(self, record: RevisionRecord) -> list[ReplicaRow]:
        """The revision's live replicas."""
        return [r for r in rows_of(self._record.name, record) if r.phase != "failed"]

    def ready(self, record: RevisionRecord) -> int:
        return sum(row.phase == "ready" for row in self.rows(record))
