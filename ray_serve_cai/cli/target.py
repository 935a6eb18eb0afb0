"""Which cluster a `model` command acts on, and the connection to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ray_serve_cai.errors import ClusterError

if TYPE_CHECKING:
    from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
    from ray_serve_cai.serving.deploy import Deployer


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


@contextmanager
def session_with(name: str | None) -> Iterator[tuple[ClusterState, ClusterRecord]]:
    """Connected to the Ray of the cluster that is meant."""
    from ray_serve_cai.serving.session import session

    state = target(name)
    record = state.existing_record()
    with session(state, record):
        yield state, record


@contextmanager
def deployer_of(
    name: str | None, purpose: str | None = None
) -> Iterator[tuple[ClusterState, ClusterRecord, Deployer]]:
    """Connected, and with the cluster's lock held when something is to change."""
    state = target(name)
    with (
        state.locked(purpose) if purpose else nullcontext(),
        session_with(state.name) as (_, record),
    ):
        from ray_serve_cai.serving.deploy import Deployer

        yield state, record, Deployer(state, record)
