"""What the front door leads to, read from the cluster's state folder."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray_serve_cai.cluster.launcher import public_address
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.nodes import ENGINE_VARIABLE, HEAD

Address = tuple[str, int]

# What may stand in an HTTP header and in a command of HAProxy.
_TOKEN = re.compile(r"[\w.~+/=-]+")


@dataclass(frozen=True)
class Target:
    """None where there is nothing. `keys` tells whether the gateway asks for an API key, `token`
    is Ray's, for its dashboard."""

    gateway: Address | None = None
    keys: bool = False
    dashboard: Address | None = None
    token: str = field(default="", repr=False)


def read_target(folder: Path, *, public: bool) -> Target:
    """The present target; an empty one when there is no cluster.

    `public` is for a door without a login in front of it, which never leads to the dashboard.
    Raises `CaiError` when the record cannot be read, which on a shared folder may be over soon.
    """
    state = ClusterState.at(folder)
    record = state.record()
    if record is None:
        return Target()
    spec = state.document(record).cluster
    open_to_all = public or getattr(spec.provider, "bypass_authentication", False)
    dashboard = None if open_to_all else _dashboard(state)
    return Target(
        gateway=_gateway(state, record),
        keys=bool(spec.gateway.api_keys),
        dashboard=dashboard,
        token=_token(state) if dashboard else "",
    )


def _gateway(state: ClusterState, record: ClusterRecord) -> Address | None:
    """Where clients are told to call this very door, the gateway is on loopback behind it."""
    if record.gateway_url and record.gateway_url == public_address(state, record):
        return ("127.0.0.1", record.gateway_port) if _head_here(state) else None
    return _address(record.gateway_url)


def _dashboard(state: ClusterState) -> Address | None:
    """It listens on loopback of the head's pod, so there is one only for a door of that pod."""
    port = _head_here(state).get("dashboard_port")
    return ("127.0.0.1", port) if port and _token(state) else None


def _head_here(state: ClusterState) -> dict[str, Any]:
    """The row of the head if it runs in this pod, else nothing."""
    try:
        row = state.read(state.folder / "nodes" / f"{HEAD}.json") or {}
    except CaiError:
        return {}
    here = (socket.gethostname(), os.environ.get(ENGINE_VARIABLE, ""))
    is_here = (row.get("host"), row.get("engine")) == here and row.get("state") == "running"
    return row if is_here else {}


def _token(state: ClusterState) -> str:
    try:
        token = state.token_path.read_text().strip()
    except OSError:
        return ""
    return token if _TOKEN.fullmatch(token) else ""


def _address(url: str) -> Address | None:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        return None
    try:
        # HAProxy takes addresses only.
        return socket.gethostbyname(parts.hostname), parts.port
    except OSError:
        return None
