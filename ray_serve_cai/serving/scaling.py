"""`cluster scale`: other node counts than the file's, until the next `up` of a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray_serve_cai.cluster.launcher import launcher_of, named
from ray_serve_cai.cluster.ray_session import alive_nodes
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.cluster import ClusterPlan, plan_cluster
from ray_serve_cai.serving.draining import drain
from ray_serve_cai.serving.session import session
from ray_serve_cai.spec import ClusterSpec

Report = Callable[..., None]


def scale_cluster(
    name: str, counts: Mapping[str, int], *, report: Report, timeout: float
) -> ClusterPlan:
    """Start or end nodes until each group has its count; returns the executed plan.

    Raises `ClusterError` (CAI-CLUSTER-012) for an unknown group.
    """
    state = ClusterState(name)
    state.existing_record()
    with state.locked("scale"):
        record = state.existing_record()
        launcher = launcher_of(state, record.provider)
        wanted = {**record.scaled, **counts}
        spec = scaled(state.document(record).cluster, wanted)
        facts = launcher.facts(launcher.provider.machine(), gateway_running=True)
        plan = plan_cluster(spec, facts)
        deadline = time.monotonic() + timeout
        try:
            if going := named(plan, "delete"):
                drain(state, record, going, report)
            launcher.launch(plan, spec, record, timeout)
            with session(state, record):
                launcher.wait_for_nodes(plan.nodes, alive_nodes, deadline, report)
        except BaseException:
            launcher.undo(whole=False)
            raise
        record.scaled = wanted
        state.save(record)
        return plan


def scaled(spec: ClusterSpec, counts: Mapping[str, int]) -> ClusterSpec:
    """The spec with these counts. Raises `ClusterError` (CAI-CLUSTER-012)."""
    known = {group.name for group in spec.workers}
    for group in counts:
        if group not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ClusterError("CAI-CLUSTER-012", f'there is no group "{group}" (known: {names})')
    workers: Any = tuple(
        group.model_copy(update={"count": counts.get(group.name, group.count)})
        for group in spec.workers
    )
    return spec.model_copy(update={"workers": workers})
