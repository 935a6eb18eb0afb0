"""Connections to the Ray of a cluster of ours, with what can go wrong said in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.exceptions import RayError
from ray.serve.context import _set_global_client
from ray.serve.exceptions import RayServeException

from ray_serve_cai.cluster.node import own_address
from ray_serve_cai.cluster.ports import listens
from ray_serve_cai.cluster.ray_session import connected, default_token_exists
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError, ClusterError
from ray_serve_cai.serving.applications import delete_all
from ray_serve_cai.serving.gateway_config import namespace
from ray_serve_cai.serving.gateway_control import stop_gateway

Report = Callable[..., None]

DOWN_PATIENCE = 5.0


@contextmanager
def session(state: ClusterState, record: ClusterRecord, patience: float = 0.0) -> Iterator[None]:
    """Connected to the cluster's Ray; CAI-CLUSTER-009 when its head is gone."""
    if not record.ray_address:
        raise ClusterError("CAI-CLUSTER-009", f'cluster "{record.name}" has no running head')
    try:
        with first_session(state, record, patience):
            yield
    except ClusterError as error:
        if error.code == "CAI-CLUSTER-007":
            raise ClusterError(
                "CAI-CLUSTER-009", f'cluster "{record.name}" is not running: {error.message}'
            ) from error
        raise
    except (RayError, RayServeException, TimeoutError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(
            "CAI-CLUSTER-009", f'cluster "{record.name}" broke off: {said[0]}'
        ) from error


@contextmanager
def first_session(state: ClusterState, record: ClusterRecord, patience: float) -> Iterator[None]:
    """Like `session`, with the errors of `cluster.ray_session.connected` as they are."""
    with connected(
        record.ray_address,
        namespace=namespace(record.name),
        token_path=_token_path(record, state),
        patience=patience,
        visit=not _is_node(record, state),
    ):
        try:
            yield
        finally:
            # Serve keeps its controller for the next session, which may be of another Ray.
            _set_global_client(None)


def stop_serving(record: ClusterRecord, state: ClusterState, report: Report) -> None:
    """Delete our applications and the gateway, if Ray still answers.

    On nodes of our own a failure is said and passed over, since the nodes go as well; on an
    existing Ray it would leave our applications there for good.
    """
    try:
        with session(state, record, DOWN_PATIENCE):
            delete_all(state)
            stop_gateway(record.name)
    except CaiError as error:
        host, _, port = record.ray_address.rpartition(":")
        if record.provider == "existing" and port.isdigit() and listens(host, int(port)):
            raise
        report("stopping", f"not in order: {error.message}")


def _is_node(record: ClusterRecord, state: ClusterState) -> bool:
    """Whether this machine holds a node of the cluster; elsewhere than on a platform whose nodes
    are pods it does."""
    if record.provider in ("local", "existing"):
        return True
    rows = state.node_rows().values()
    return any(row.get("ip") == own_address() and row["state"] == "running" for row in rows)


def _token_path(record: ClusterRecord, state: ClusterState) -> Path | None:
    """The token to connect with; None leaves it to Ray's own ways to find one.

    Of an existing Ray: the spec's token, else what Ray finds by itself, else any (ours), since a
    client must show one even to a Ray that asks for none.
    """
    if record.provider != "existing":
        return state.token_path
    provider = state.document(record).cluster.provider
    given = provider.type == "existing" and provider.token
    return state.token_path if given or not default_token_exists() else None
