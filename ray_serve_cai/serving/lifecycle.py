"""`up` and `down` of a whole cluster: nodes, then gateway, then models.

Ray is imported only where it is needed, so that nodes are launched before this process has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil

from ray_serve_cai.cluster.launcher import (
    launcher_of,
    log_tail,
    named,
    new_record,
    observed_plan,
)
from ray_serve_cai.cluster.ports import is_taken
from ray_serve_cai.cluster.state import NODES, ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError, ClusterError
from ray_serve_cai.interrupts import held_back
from ray_serve_cai.plan.cluster import ClusterPlan
from ray_serve_cai.serving.reach import gateway_runs, gateway_url
from ray_serve_cai.spec import ClusterSpec, Document, check_exposure
from ray_serve_cai.spec.exposure import head_is_elsewhere

Report = Callable[..., None]

HEAD_PATIENCE = 60.0


@dataclass(frozen=True)
class Up:
    """What `up` did, and where the gateway is."""

    plan: ClusterPlan
    url: str


def plan_up(document: Document, *, insecure: bool = False) -> ClusterPlan:
    """The plan that `up` of this document would execute now."""
    check_exposure(document.cluster, insecure)
    record = ClusterState(document.cluster.name).record()
    running = record is not None and gateway_runs(ClusterState(record.name), record)
    return observed_plan(document, gateway_running=running)


def up(
    document: Document,
    *,
    report: Report,
    timeout: float,
    wait: bool = True,
    keep: bool = False,
    insecure: bool = False,
) -> Up:
    """Make the cluster what the document says.

    After any failure, time-out or interrupt the nodes that this call opened are removed again,
    unless `keep`. Raises `CaiError`.
    """
    state = ClusterState(document.cluster.name)
    with state.locked("up"):
        plan = plan_up(document, insecure=insecure)
        before = state.record()
        if before is not None and not plan.actions and before.raw == document.raw:
            return Up(plan, before.gateway_url)
        return _Upping(document, state, plan, report).run(timeout, wait=wait, keep=keep)


def up_again(
    document: Document,
    plan: ClusterPlan,
    counts: Mapping[str, int],
    *,
    report: Report,
    timeout: float,
) -> Up:
    """`up` by this plan of a cluster that was there, with the node counts that `cluster scale`
    set. The caller holds the lock."""
    state = ClusterState(document.cluster.name)
    before = state.existing_record()
    if not plan.actions:
        return Up(plan, before.gateway_url)
    upping = _Upping(document, state, plan, report, counts)
    return upping.run(timeout, wait=True, keep=False)


def finish_up(name: str, *, report: Report, timeout: float) -> None:
    """Do what `up --no-wait` left: wait for the nodes, start the gateway."""
    state = ClusterState(name)
    record = state.existing_record()
    if record.state == "starting":
        # The exposure was checked, or waived, by the command that began.
        up(state.document(record), report=report, timeout=timeout, keep=True, insecure=True)


def down(name: str, *, report: Report) -> bool:
    """Remove the cluster: models, gateway, nodes, state. False when there was nothing."""
    from ray_serve_cai.serving.session import stop_serving

    state = ClusterState(name)
    if not state.folder.is_dir():
        return False
    with state.locked("down"):
        record, spec_provider = _provider_of(state)
        launcher = launcher_of(state, spec_provider)
        was_there = record is not None or any(launcher.provider.known(state.folder))
        if record is not None and record.ray_address:
            report("stopping", "models and gateway")
            stop_serving(record, state, report)
        report("stopping", "nodes")
        launcher.remove()
        return was_there


class _Upping:
    """One run of `up`, inside the lock."""

    def __init__(
        self,
        document: Document,
        state: ClusterState,
        plan: ClusterPlan,
        report: Report,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._counts = dict(counts or {})
        self._document, self._spec = document, document.cluster
        self._state, self._plan, self._report = state, plan, report
        self._launcher = launcher_of(state, self._spec.provider.type)
        self._before, self._values = state.record(), state.variables()

    def run(self, timeout: float, *, wait: bool, keep: bool) -> Up:
        deadline = time.monotonic() + timeout
        self._check_ports()
        try:
            self._state.create()
            record = replace(new_record(self._document, self._before), scaled=self._counts)
            self._state.set_variables(self._document.variables)
            self._state.set_variables(dict(self._spec.ray.env), NODES)
            self._write_given_token()
            self._state.save(record)
            self._report("starting", ", ".join(a.name for a in self._plan.actions) or "changes")
            self._drain(record)
            self._launcher.launch(self._plan, self._spec, record, timeout)
            if wait:
                self._finish(record, deadline)
        except BaseException as error:
            if not keep:
                self._report("undoing", "removing what this command opened")
            if (keep or not self._undo()) and isinstance(error, CaiError):
                error.hint += f" `cai cluster down {self._spec.name}` ends what is left."
            raise
        return Up(self._plan, record.gateway_url)

    def _drain(self, record: ClusterRecord) -> None:
        """Nodes that the plan ends give their replicas to others first."""
        if going := named(self._plan, "delete"):
            from ray_serve_cai.serving.draining import drain

            drain(self._state, record, going, self._report)

    def _finish(self, record: ClusterRecord, deadline: float) -> None:
        """Everything after the launch: head, nodes, gateway."""
        # Imported while the nodes boot: Ray and Serve take most of a second.
        with held_back():
            from ray_serve_cai.cluster.ray_session import alive_nodes, gcs_address
            from ray_serve_cai.serving.gateway_control import start_gateway
            from ray_serve_cai.serving.session import first_session

        if self._launcher.provider.owns_nodes:
            left = deadline - time.monotonic()
            record.ray_address = self._launcher.wait_for_head(left, self._report)
            patience = min(HEAD_PATIENCE, deadline - time.monotonic())
        else:
            record.ray_address, patience = record.ray_address or self._spec_address(), 0.0
        self._state.save(record)
        with (
            _address_errors(self._spec, record, deadline),
            first_session(self._state, record, patience),
        ):
            record.ray_address = gcs_address()
            nodes = self._plan.nodes
            self._launcher.wait_for_nodes(nodes, alive_nodes, deadline, self._report)
            self._report("starting", "gateway")
            url = start_gateway(self._spec, self._state, record)
        record.gateway_url = gateway_url(self._spec, self._state, record, url)
        record.state = "ready"
        self._state.save(record)

    def _undo(self) -> bool:
        """A new cluster goes whole; of an older one only what this call opened. Whether all of
        that could be removed."""
        whole, complete = self._before is None, True
        try:
            if whole and not self._launcher.provider.owns_nodes:
                record = self._state.record()
                if record is not None and record.ray_address:
                    # Not above: an interrupt in the midst of Ray's import leaves Ray unusable.
                    from ray_serve_cai.serving.session import stop_serving

                    stop_serving(record, self._state, self._report)
        except CaiError as error:
            self._report("undoing", f"not all could be removed: {error.message}")
            complete = False
        try:
            self._launcher.undo(whole=whole)
        except (CaiError, OSError, psutil.Error) as error:
            # What made `up` fail is what the user must see.
            self._report("undoing", f"not all could be removed: {error}")
            complete = False
        if not whole and self._before is not None:
            self._state.set_variables(self._values)
            self._state.save(self._before)
        return complete

    def _check_ports(self) -> None:
        if not self._launcher.provider.owns_nodes or head_is_elsewhere(self._spec):
            return
        gateway = self._spec.gateway
        starts = {action.kind for action in self._plan.actions}
        wanted: list[tuple[str, int | str, str]] = []
        if "gateway" in starts:
            wanted.append((gateway.host, gateway.port, "gateway.port"))
            wanted.append((gateway.metrics.host, gateway.metrics.port, "gateway.metrics.port"))
        if any(action.name == "head" for action in self._plan.actions):
            wanted.append(("", self._spec.ray.port, "ray.port"))
        for host, port, key in wanted:
            if isinstance(port, int) and is_taken(host, port):
                raise ClusterError(
                    "CAI-CLUSTER-004",
                    f"port {port} ({key}) is in use by another program",
                    hint=f"Choose another one, for example `--set {key}=auto`.",
                )

    def _write_given_token(self) -> None:
        provider = self._spec.provider
        if provider.type == "existing" and provider.token:
            self._state.write_private(self._state.token_path, provider.token)

    def _spec_address(self) -> str:
        provider = self._spec.provider
        return provider.address if provider.type == "existing" else ""


@contextmanager
def _address_errors(spec: ClusterSpec, record: ClusterRecord, deadline: float) -> Iterator[None]:
    """A head of ours that does not answer is late, or a node that failed, with its log."""
    try:
        yield
    except ClusterError as error:
        if error.code == "CAI-CLUSTER-007" and spec.provider.type != "existing":
            if time.monotonic() >= deadline:
                raise ClusterError("CAI-CLUSTER-006", "the head was not up in time") from error
            tail = log_tail(ClusterState(record.name).logs / "node-head.log")
            raise ClusterError("CAI-CLUSTER-005", f"{error.message}\n{tail}") from error
        raise


def _provider_of(state: ClusterState) -> tuple[ClusterRecord | None, str]:
    """The record and its provider; a damaged record must not keep `down` from working."""
    try:
        record = state.record()
    except CaiError:
        return None, "local"
    return record, record.provider if record else "local"
