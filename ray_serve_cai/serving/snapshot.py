"""A cluster as its state folder shows it at one moment: `/status.json` of the front door.

The rows are those of `cai cluster status` and `cai model list`, without Ray and the provider: a
node is judged by what its agent wrote and how lately, a model by what the gateway actor wrote.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.nodes import ENGINE_VARIABLE, HEAD, SILENT_SECONDS
from ray_serve_cai.serving.revisions import Revisions
from ray_serve_cai.serving.rows import model_row, node_row, state_word
from ray_serve_cai.serving.rules import read_rules
from ray_serve_cai.serving.status_files import Replicas, Status, read_replicas, read_status
from ray_serve_cai.serving.target import read_target

SCHEMA = "cai/v1"
# The gateway actor writes every two seconds.
STALE_SECONDS = 15.0


def snapshot(folder: Path, name: str, *, public: bool = False) -> dict[str, Any]:
    """All that the status page shows. Never raises for a cluster in whatever state.

    `public` leaves out what only the cluster's own people should see: addresses, messages,
    single replicas.
    """
    state = ClusterState.at(folder)
    said = read_status(folder)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "state": _word_before(folder, said),
        "phase": said.phase if said else "",
        "message": said.message if said else "",
        "message_age": _age(said.time) if said else None,
        "nodes": [],
        "models": [],
        "models_age": None,
        "endpoint": "/v1",
        "key_needed": False,
        "dashboard": None,
    }
    try:
        record = state.record()
        if record is not None:
            data |= _of_cluster(state, record, public)
    except (CaiError, OSError) as error:
        data |= {"state": "failed", "message": getattr(error, "message", str(error))}
    return _for_everybody(data) if public else data


def _word_before(folder: Path, said: Status | None) -> str:
    """The state while there is no record. `down` leaves the folder with the logs."""
    if said is None:
        return "stopped" if folder.exists() else "starting"
    return "failed" if said.phase == "failed" else "starting"


def _of_cluster(state: ClusterState, record: ClusterRecord, public: bool) -> dict[str, Any]:
    nodes = _node_rows(state, record)
    replicas = read_replicas(state.folder)
    target = read_target(state.folder, public=public)
    return {
        "state": state_word(state, record, [node["state"] for node in nodes]),
        "nodes": nodes,
        "models": _model_rows(state, record, replicas),
        "models_age": _age(replicas.time) if replicas else None,
        "key_needed": target.keys,
        "dashboard": "/dashboard/" if target.dashboard else None,
    }


def _node_rows(state: ClusterState, record: ClusterRecord) -> list[dict[str, Any]]:
    """The nodes that the spec wants, and those that wrote a row."""
    wanted = []
    if record.provider != "existing":
        spec = state.document(record).cluster
        counts = {group.name: group.count for group in spec.workers} | record.scaled
        wanted = [HEAD]
        wanted += [
            f"{group}-{number}" for group, count in counts.items() for number in range(count)
        ]
    nodes = {node_id: node_row(node_id, "pending", {}, None) for node_id in wanted}
    for node_id, path in state.node_row_paths().items():
        row = state.read(path) or {}
        nodes[node_id] = node_row(node_id, _node_word(row, path), row, None)
    return list(nodes.values())


def _model_rows(
    state: ClusterState, record: ClusterRecord, replicas: Replicas | None
) -> list[dict[str, Any]]:
    revisions = Revisions(state)
    known = replicas.rows if replicas else ()
    rules = read_rules(state.folder / "gateway")
    rows = []
    for revision in map(revisions.existing, revisions.models()):
        if revision.range and (rule := rules.get(revision.model)):
            revision.replicas = rule.count
        rows.append(model_row(record, revision, known, lambda: None))
    fresh = replicas is not None and _age(replicas.time) < STALE_SECONDS
    for row in rows:
        # As the visitor calls it; the gateway's own address means nothing outside the pod.
        row["endpoint"] = "/v1"
        if not fresh and row["state"] in ("ready", "degraded"):
            row["state"] = "unknown"
    return rows


def _node_word(row: Mapping[str, Any], path: Path) -> str:
    if row.get("state") == "ended" or not _lives(row, path):
        return "lost"
    return "ready" if row.get("state") == "running" else "starting"


def _lives(row: Mapping[str, Any], path: Path) -> bool:
    """Whether the agent's process is there, or where that is not to be seen, was heard lately."""
    here = (socket.gethostname(), os.environ.get(ENGINE_VARIABLE, ""))
    if (row.get("host"), row.get("engine")) == here:
        try:
            return bool(psutil.Process(row["pid"]).create_time() == row["created"])
        except (psutil.Error, KeyError):
            return False
    try:
        return time.time() - path.stat().st_mtime < SILENT_SECONDS
    except FileNotFoundError:
        return False


def _for_everybody(data: dict[str, Any]) -> dict[str, Any]:
    nodes = [{**node, "ip": ""} for node in data["nodes"]]
    hidden: dict[str, Any] = {"message": "", "engine_config": None, "instances": []}
    models = [{**model, **hidden} for model in data["models"]]
    return {**data, "message": "", "nodes": nodes, "models": models}


def _age(then: float) -> float:
    """Seconds since; the clocks of two pods may differ a little."""
    return round(max(time.time() - then, 0.0), 1)
