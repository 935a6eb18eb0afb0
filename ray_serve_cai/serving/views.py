"""Clusters and models as `list` and `status` show them: the rows behind table and JSON."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from ray_serve_cai.cluster.launcher import known_nodes
from ray_serve_cai.cluster.ray_session import alive_nodes
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, all_clusters
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.serving.applications import application_status
from ray_serve_cai.serving.gateway_control import ask, find_gateway
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.readiness import gateway_answers
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.session import session

_PHASES = ("scheduling", "downloading", "loading")


def cluster_list() -> list[dict[str, Any]]:
    """One row a cluster, from state folder, processes and gateway; Ray is not asked."""
    return [_cluster_row(state) for state in all_clusters()]


def cluster_status(name: str) -> dict[str, Any]:
    """A cluster and its nodes. Raises `ClusterError` (CAI-CLUSTER-001)."""
    state = ClusterState(name)
    record = state.existing_record()
    nodes = _node_rows(state, record)
    return {
        "name": name,
        "state": _state_word(record, [node["state"] for node in nodes]),
        "provider": record.provider,
        "ray_address": record.ray_address,
        "gateway_url": record.gateway_url,
        "nodes": nodes,
    }


def model_rows(state: ClusterState, record: ClusterRecord) -> list[dict[str, Any]]:
    """One row a model; the caller is connected to Ray."""
    revisions = Revisions(state)
    try:
        replicas: list[ReplicaRow] = ask(find_gateway(state.name).replicas.remote())
    except CaiError:
        replicas = []
    return [
        _model_row(record, revisions.existing(name), replicas, revisions)
        for name in revisions.models()
    ]


def model_row(state: ClusterState, record: ClusterRecord, name: str) -> dict[str, Any]:
    """The row of one model. Raises `ModelError` (CAI-MODEL-001)."""
    Revisions(state).existing(name)
    return next(row for row in model_rows(state, record) if row["name"] == name)


def _cluster_row(state: ClusterState) -> dict[str, Any]:
    try:
        record = state.existing_record()
        words = list(known_nodes(state, record.provider).values())
        return {
            "name": record.name,
            "state": _state_word(record, words),
            "provider": record.provider,
            "gateway_url": record.gateway_url,
            "nodes": len(words),
            "models": len(Revisions(state).models()),
        }
    except CaiError as error:
        return {
            "name": state.name,
            "state": "failed",
            "provider": "",
            "gateway_url": "",
            "nodes": 0,
            "models": 0,
            "message": error.message,
        }


def _node_rows(state: ClusterState, record: ClusterRecord) -> list[dict[str, Any]]:
    own = known_nodes(state, record.provider)
    rows = state.node_rows()
    if own.get(HEAD, "ready") in ("lost", "pending", "starting") or not record.ray_address:
        return [
            _node_row(node_id, word, rows.get(node_id, {}), None) for node_id, word in own.items()
        ]
    try:
        with session(state, record):
            alive = alive_nodes(rows)
    except CaiError:
        return [_node_row(node_id, "lost", rows.get(node_id, {}), None) for node_id in own]
    # A node that was removed a moment ago can still be alive to Ray.
    spec = state.document(record).cluster
    ours = re.compile("|".join([HEAD, *(rf"{group.name}-\d+" for group in spec.workers)]))
    alive = {n: seen for n, seen in alive.items() if n in own or not ours.fullmatch(n)}
    merged = []
    for node_id in sorted({*own, *alive}, key=lambda name: (name != HEAD, name)):
        word = own.get(node_id, "ready")
        if word == "ready" and node_id not in alive:
            word = "starting"
        merged.append(_node_row(node_id, word, rows.get(node_id, {}), alive.get(node_id)))
    return merged


def _node_row(
    node_id: str, word: str, row: dict[str, Any], seen: dict[str, Any] | None
) -> dict[str, Any]:
    resources = seen["Resources"] if seen else {}
    return {
        "id": node_id,
        "role": row.get("role", "head" if node_id == HEAD else "worker"),
        "group": row.get("group", _group(node_id)),
        "state": word,
        "ip": seen["NodeManagerAddress"] if seen else row.get("ip", ""),
        "cpu": resources.get("CPU", row.get("cpu", 0)),
        "gpu": resources.get("GPU", row.get("gpu", 0)),
        "memory": int(resources.get("memory", row.get("memory") or 0)),
    }


def _group(node_id: str) -> str:
    """Our ids are `group-number`; Ray's own are hexadecimal."""
    return node_id.rsplit("-", 1)[0] if "-" in node_id else "joined"


def _state_word(record: ClusterRecord, nodes: list[str]) -> str:
    if record.provider != "existing" and not nodes:
        return "stopped"
    if record.provider != "existing" and all(word == "lost" for word in nodes):
        return "lost"
    if record.state != "ready":
        return record.state
    if "lost" in nodes or not gateway_answers(record.gateway_url):
        return "degraded"
    return "ready" if all(word == "ready" for word in nodes) else "starting"


def _model_row(
    record: ClusterRecord,
    revision: RevisionRecord,
    replicas: list[ReplicaRow],
    revisions: Revisions,
) -> dict[str, Any]:
    mine = [r for r in replicas if (r.model, r.revision) == (revision.model, revision.revision)]
    live = [row for row in mine if row.phase == "ready"]
    word, message = _model_state(record, revision, mine, len(live))
    return {
        "name": revision.model,
        "state": word,
        "engine": revision.engine,
        "transport": revision.transport,
        "replicas": {"ready": len(live), "wanted": revision.replicas},
        "revision": revision.revision,
        "endpoint": f"{record.gateway_url}/v1",
        "engine_config": live[0].engine_config if live else None,
        "message": message,
        "instances": [_instance(row) for row in mine],
    }


def _model_state(
    record: ClusterRecord, revision: RevisionRecord, mine: list[ReplicaRow], live: int
) -> tuple[str, str]:
    message = next((row.message for row in mine if row.message and row.phase == "failed"), "")
    if revision.state == "failed":
        return "failed", revision.message or message
    if revision.replicas == 0:
        return "idle", message
    if live >= revision.replicas:
        return "ready", ""
    if live:
        return "degraded", message
    status = application_status(record.name, revision.model, revision.revision)
    if status is None or str(status.status.value) == "DEPLOY_FAILED":
        return "failed", message or (status.message if status else "Serve does not know it")
    starting = [row.phase for row in mine if row.phase in _PHASES]
    return (starting[-1] if starting else "scheduling"), message


def _instance(row: ReplicaRow) -> dict[str, Any]:
    data = asdict(row)
    data.pop("engine_config")
    return data
