"""Clusters and models as `list` and `status` show them: the rows behind table and JSON.

Ray is imported only where it is asked: that takes longer than all else here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_serve_cai.cluster.launcher import known_nodes
from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, all_clusters
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.serving.rows import model_row as row_of_model
from ray_serve_cai.serving.rows import node_row, state_word

if TYPE_CHECKING:
    from ray_serve_cai.serving.job import ReplicaRow


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
        "state": state_word(state, record, [node["state"] for node in nodes]),
        "provider": record.provider,
        "ray_address": record.ray_address,
        "gateway_url": record.gateway_url,
        "nodes": nodes,
    }


def model_rows(state: ClusterState, record: ClusterRecord) -> list[dict[str, Any]]:
    """One row a model; the caller is connected to Ray."""
    from ray_serve_cai.serving.following import counted, counts
    from ray_serve_cai.serving.gateway_control import ask, find_gateway

    revisions = Revisions(state)
    try:
        replicas: list[ReplicaRow] = ask(find_gateway(state.name).replicas.remote())
    except CaiError:
        replicas = []
    known = counts(state.name)
    rows = []
    for revision in [revisions.existing(name) for name in revisions.models()]:
        row = row_of_model(
            record,
            replace(revision, replicas=counted(revision, known)),
            replicas,
            partial(_serve_failure, record, revision),
        )
        left = _still_there(record, revisions.replaced(revision.model))
        rows.append(row | {"message": row["message"] or left})
    return rows


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
            "state": state_word(state, record, words),
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
            node_row(node_id, word, rows.get(node_id, {}), None) for node_id, word in own.items()
        ]
    from ray_serve_cai.cluster.ray_session import alive_nodes
    from ray_serve_cai.serving.session import session

    try:
        with session(state, record):
            alive = alive_nodes(rows)
    except CaiError:
        return [node_row(node_id, "lost", rows.get(node_id, {}), None) for node_id in own]
    # A node that was removed a moment ago can still be alive to Ray.
    spec = state.document(record).cluster
    ours = re.compile("|".join([HEAD, *(rf"{group.name}-\d+" for group in spec.workers)]))
    alive = {n: seen for n, seen in alive.items() if n in own or not ours.fullmatch(n)}
    merged = []
    for node_id in sorted({*own, *alive}, key=lambda name: (name != HEAD, name)):
        word = own.get(node_id, "ready")
        if word == "ready" and node_id not in alive:
            word = "starting"
        merged.append(node_row(node_id, word, rows.get(node_id, {}), alive.get(node_id)))
    return merged


def _still_there(record: ClusterRecord, replaced: Sequence[RevisionRecord]) -> str:
    """What a deploy that was killed has left; one that is under way is about to end it."""
    from ray_serve_cai.serving.applications import application_status

    there = [it for it in replaced if application_status(record.name, it.model, it.revision)]
    if not there:
        return ""
    numbers = ", ".join(str(it.revision) for it in there)
    return f"revision {numbers} was replaced and has not ended; the next deploy ends what is left"


def _serve_failure(record: ClusterRecord, revision: RevisionRecord) -> str | None:
    """Why Ray Serve has given the revision up; None while it has not."""
    from ray_serve_cai.serving.applications import application_status

    status = application_status(record.name, revision.model, revision.revision)
    if status is None:
        return "Serve does not know it"
    return str(status.message) if str(status.status.value) == "DEPLOY_FAILED" else None
