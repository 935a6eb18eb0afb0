"""Moving replicas off nodes that are about to go."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from ray_serve_cai.cluster.ray_session import alive_nodes
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.serving.gateway_control import ask, find_gateway, wait_until
from ray_serve_cai.serving.session import session

Report = Callable[..., None]

# A replica's successor loads its model, then its own requests end.
DRAIN_SECONDS = 600.0
POLL_SECONDS = 0.5


def drain(
    state: ClusterState, record: ClusterRecord, nodes: Collection[str], report: Report
) -> None:
    """Return when no replica runs on the nodes any more, or after ten minutes.

    Ray is told that the nodes will go, so Serve starts each replica elsewhere first, as far as
    there is room. A cluster that does not answer has nothing to drain.
    """
    try:
        with session(state, record):
            alive = alive_nodes(state.node_rows())
            going = {alive[node]["NodeID"] for node in nodes if node in alive}
            if not _replicas_on(record, going):
                return
            report("draining", ", ".join(nodes))
            _announce(going)
            deadline = time.monotonic() + DRAIN_SECONDS
            if not wait_until(lambda: not _replicas_on(record, going), deadline, POLL_SECONDS):
                report("draining", "replicas are still there; their requests will break off")
    except ClusterError as error:
        report("draining", f"not possible: {error.message}")


def _replicas_on(record: ClusterRecord, ray_nodes: Collection[str]) -> list[str]:
    rows = ask(find_gateway(record.name).replicas.remote())
    return [row.replica_id for row in rows if row.node_id in ray_nodes and row.phase != "failed"]


def _announce(ray_nodes: Collection[str]) -> None:
    client = ray._private.worker.global_worker.gcs_client
    gone = int((time.time() + DRAIN_SECONDS) * 1000)
    # Ray may reject the other reason, idleness, for a node that works.
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for node in ray_nodes:
        client.drain_node(node, reason, "the cluster is scaled down", gone)
