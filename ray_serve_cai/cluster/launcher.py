"""Makes the nodes that are there equal to the nodes that are wanted.

Whatever the last command was, and however it ended, the next `up` or `down` starts from what is
really there: the provider's list and the agents' rows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ray_serve_cai.cluster.node import TEMP_VARIABLE
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, now
from ray_serve_cai.cluster.watch import Watch, combined, node_states
from ray_serve_cai.errors import CaiError, ClusterError
from ray_serve_cai.plan.cluster import ClusterFacts, ClusterPlan, Machine, fixed_part, plan_cluster
from ray_serve_cai.plan.nodes import HEAD, PATIENCE_VARIABLE, NodePlan
from ray_serve_cai.providers.base import LaunchContext, Provider
from ray_serve_cai.providers.processes import kill_marked
from ray_serve_cai.providers.registry import get_provider
from ray_serve_cai.spec import ClusterSpec, Document

Report = Callable[..., None]

POLL_SECONDS = 0.05
TAIL_LINES = 12


class Launcher:
    """Brings one cluster's nodes up and down. The caller holds the cluster's lock."""

    def __init__(self, state: ClusterState, provider: Provider) -> None:
        self.state = state
        self.provider = provider
        # Ids of the nodes that this launcher started.
        self.opened: list[str] = []

    def facts(self, machine: Machine | None, *, gateway_running: bool) -> ClusterFacts:
        """What is there, for `plan_cluster`."""
        record = self.state.record()
        rows = self.state.node_rows().items()
        return ClusterFacts(
            shapes={
                node_id: (row["cpu"], row["gpu"])
                for node_id, row in rows
                if {"cpu", "gpu"} <= row.keys()
            },
            nodes=node_states(self.state, self.provider),
            fixed=record.fixed if record else None,
            gateway_running=gateway_running and record is not None,
            scaled=record.scaled if record else {},
            machine=machine,
        )

    def launch(
        self, plan: ClusterPlan, spec: ClusterSpec, record: ClusterRecord, timeout: float = 0.0
    ) -> None:
        """Start what the plan creates or replaces and end what it deletes.

        `timeout` is how long, in seconds, the caller is going to wait for the nodes.
        """
        replaced, surplus = named(plan, "replace"), named(plan, "delete")
        known = set(self.provider.known(self.state.folder)) if replaced else set()
        ended = [*surplus, *(node_id for node_id in replaced if node_id in known)]
        if ended:
            self.provider.terminate(self.state.folder, ended)
            for node_id in ended:
                self.state.forget_node(node_id)
        wanted = {*named(plan, "create"), *replaced}
        context = self._context(spec, record, timeout)
        for _, group in groupby(plan.nodes, key=lambda node: node.group):
            nodes = [node for node in group if node.id in wanted]
            for node in nodes:
                self.state.forget_node(node.id)
                self.opened.append(node.id)
            if nodes:
                self.provider.launch(nodes, context)

    def wait_for_head(self, timeout: float, report: Report) -> str:
        """The head's Ray address once its port answers."""
        deadline = time.monotonic() + timeout
        watch = Watch(self.state, self.provider)
        while True:
            row = watch.rows().get(HEAD, {})
            if row.get("state") == "running":
                return f"{row['ip']}:{row['ray_port']}"
            self._fail_if_ended([HEAD], watch)
            report(watch.phase([HEAD]), f"waiting for {watch.described([HEAD])}")
            if time.monotonic() > deadline:
                raise ClusterError("CAI-CLUSTER-006", f"the head was not up in {timeout:.0f} s")
            time.sleep(POLL_SECONDS)

    def wait_for_nodes(
        self,
        nodes: Sequence[NodePlan],
        alive: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        deadline: float,
        report: Report,
    ) -> None:
        """Return once Ray lists every node as alive."""
        watch = Watch(self.state, self.provider)
        while True:
            rows = watch.rows()
            there = alive(rows)
            # Without a row of its own yet, what Ray lists is a node's predecessor.
            missing = [node.id for node in nodes if node.id not in rows or node.id not in there]
            if not missing:
                return
            self._fail_if_ended(missing, watch)
            report(watch.phase(missing), f"waiting for {watch.described(missing)}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    "CAI-CLUSTER-006", f"not ready in time: {watch.described(missing)}"
                )
            time.sleep(2 * POLL_SECONDS)

    def undo(self, *, whole: bool) -> None:
        """Remove the nodes that this launcher opened, or the whole cluster if it was new."""
        if self.opened:
            self.provider.terminate(self.state.folder, self.opened)
            for node_id in self.opened:
                self.state.forget_node(node_id)
        if whole:
            self.remove()

    def remove(self) -> None:
        """End every node and every process of the cluster here, and clear its state."""
        ids = self.provider.known(self.state.folder)
        if ids:
            self.provider.terminate(self.state.folder, ids)
        kill_marked(self.state.folder)
        record = _record_if_readable(self.state)
        if record is not None and record.temp_folder:
            shutil.rmtree(record.temp_folder, ignore_errors=True)
        self.state.clear()

    def _fail_if_ended(self, node_ids: Sequence[str], watch: Watch) -> None:
        states = watch.states()
        for node_id in node_ids:
            # A node that the provider does not list died before it could write its row.
            if states.get(node_id, watch.unlisted) == "lost":
                tail = log_tail(self.state.logs / f"node-{node_id}.log")
                why = f"node {node_id} ended while starting"
                if said := watch.message(node_id):
                    why += f": {said}"
                raise ClusterError("CAI-CLUSTER-005", f"{why}\n{tail}")

    def _context(self, spec: ClusterSpec, record: ClusterRecord, timeout: float) -> LaunchContext:
        patience = max(timeout, getattr(spec.provider, "launch_timeout", 0.0))
        environment = {
            PATIENCE_VARIABLE: f"{float(patience):.0f}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.state.token_path),
            # Ray runs its workers at niceness 15; an engine below them would lose to anything.
            "RAY_worker_niceness": "0",
            TEMP_VARIABLE: record.temp_folder,
        }
        return LaunchContext(
            spec.name, spec.provider, self.state.folder, self.state.logs, environment
        )


def launcher_of(state: ClusterState, provider: str) -> Launcher:
    """The launcher for a provider named by its type."""
    return Launcher(state, get_provider(provider))


def known_nodes(state: ClusterState, provider: str) -> dict[str, str]:
    """`node_states` for a provider named by its type, for those who only look: where this process
    may not ask the platform, the agents' rows are believed."""
    try:
        return node_states(state, get_provider(provider))
    except ClusterError as error:
        if error.code not in ("CAI-PROVIDER-001", "CAI-PROVIDER-004"):
            raise
        return combined(state.node_rows(), None)


def out_of_reach(state: ClusterState, provider: str, ids: Sequence[str]) -> Mapping[str, str]:
    """`Provider.out_of_reach` of a provider named by its type."""
    return get_provider(provider).out_of_reach(state.folder, ids)


def public_address(state: ClusterState, record: ClusterRecord) -> str:
    """The head's base URL as its provider publishes it, or ""."""
    return get_provider(record.provider).public_address(state.folder)


def observed_plan(document: Document, *, gateway_running: bool) -> ClusterPlan:
    """The plan of `up` for this document against what is there now; changes nothing."""
    spec = document.cluster
    launcher = launcher_of(ClusterState(spec.name), spec.provider.type)
    facts = launcher.facts(launcher.provider.machine(), gateway_running=gateway_running)
    return plan_cluster(spec, facts)


def new_record(document: Document, before: ClusterRecord | None) -> ClusterRecord:
    """The record that `up` of this document writes first."""
    spec = document.cluster
    common: dict[str, Any] = {
        "raw": document.raw,
        "spec_path": str(document.path),
        "fixed": fixed_part(spec),
    }
    if before is not None:
        revision = before.revision + (before.raw != document.raw)
        return replace(before, **common, revision=revision, scaled={})
    return ClusterRecord(
        name=spec.name,
        provider=spec.provider.type,
        state="starting",
        revision=1,
        created=now(),
        # Short: Ray puts Unix sockets in it, whose paths end at 107 bytes.
        temp_folder=str(Path(tempfile.gettempdir()) / f"cai-{os.getuid()}-{_digest(spec.name)}"),
        **common,
    )


def named(plan: ClusterPlan, verb: str) -> list[str]:
    """Ids of the nodes for which the plan has that verb."""
    return [a.name for a in plan.actions if a.kind == "node" and a.verb == verb]


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _record_if_readable(state: ClusterState) -> ClusterRecord | None:
    try:
        return state.record()
    except CaiError:
        return None


def _digest(name: str) -> str:
    """Two clusters of one name under two CAI_HOMEs must not share a folder."""
    return hashlib.sha256(str(ClusterState(name).folder.resolve()).encode()).hexdigest()[:10]
