"""Which cluster a `model` command acts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_serve_cai.errors import ClusterError

if TYPE_CHECKING:
    from ray_serve_cai.cluster.state import ClusterState


def target(name: str | None) -> ClusterState:
    """The named cluster, else the only one.

    Raises `ClusterError`: CAI-CLUSTER-001 for an unknown name, CAI-CLUSTER-002 for none or many.
    """
    from ray_serve_cai.cluster.state import ClusterState, all_clusters

    if name:
        state = ClusterState(name)
        state.existing_record()
        return state
    found = all_clusters()
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClusterError(
            "CAI-CLUSTER-002", "there is no cluster; `cai cluster up SPEC` makes one"
        )
    names = ", ".join(state.name for state in found)
    raise ClusterError("CAI-CLUSTER-002", f"there are several clusters: {names}")
