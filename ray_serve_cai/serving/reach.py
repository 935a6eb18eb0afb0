"""Where a cluster's gateway is, seen from this process.

On Cloudera AI the head may be another pod than the one that runs the command; its loopback
address is then not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ray_serve_cai.cluster.launcher import public_address
from ray_serve_cai.cluster.node import own_address
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.serving.readiness import gateway_answers
from ray_serve_cai.spec import ClusterSpec
from ray_serve_cai.spec.exposure import is_loopback


def head_is_here(state: ClusterState, record: ClusterRecord) -> bool:
    """Whether the head runs in this pod or on this machine."""
    if record.provider in ("local", "existing"):
        return True
    return state.node_rows().get(HEAD, {}).get("ip") == own_address()


def gateway_url(spec: ClusterSpec, state: ClusterState, record: ClusterRecord, local: str) -> str:
    """The gateway's base URL for clients, given the one that holds on the head itself."""
    if head_is_here(state, record):
        return local
    if not is_loopback(spec.gateway.host):
        address = state.node_rows().get(HEAD, {}).get("ip")
        return f"http://{address}:{urlsplit(local).port}"
    return public_address(state, record) or local


def gateway_runs(state: ClusterState, record: ClusterRecord) -> bool:
    """Whether the gateway answers; one that only the head can ask is believed to.

    Its actor starts it again when it ends, so with a living head there is little doubt.
    """
    if not record.gateway_url:
        return False
    head = state.node_rows().get(HEAD, {})
    if head.get("state") == "running" and _moved(head, record):
        # The gateway went with the old one.
        return False
    here = head_is_here(state, record)
    return (not here and _is_out_of_reach(state, record)) or gateway_answers(record.gateway_url)


def head_stays(state: ClusterState, record: ClusterRecord) -> bool:
    """Whether the Ray runs that the record names, as far as the head's agent tells."""
    if record.provider == "existing":
        return True
    row = state.node_rows().get(HEAD, {})
    return row.get("state") == "running" and not _moved(row, record)


def _moved(head: Mapping[str, Any], record: ClusterRecord) -> bool:
    """Whether the platform started the head again by itself: another Ray, in which nothing is."""
    return "ray_port" in head and f"{head['ip']}:{head['ray_port']}" != record.ray_address


def _is_out_of_reach(state: ClusterState, record: ClusterRecord) -> bool:
    """Whether only the head itself, or who has passed the platform's login, gets to the URL."""
    host = urlsplit(record.gateway_url).hostname or ""
    return is_loopback(host) or record.gateway_url == public_address(state, record)
