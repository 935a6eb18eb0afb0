"""The rows of `status` and `list`, made from the state folder and from what others say.

Nothing here imports Ray, so that the status page can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.serving.job import ReplicaRow
from ray_serve_cai.serving.reach import gateway_runs
from ray_serve_cai.serving.revisions import RevisionRecord

_PHASES = ("scheduling", "downloading", "loading")


def node_row(
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


def state_word(state: ClusterState, record: ClusterRecord, nodes: Sequence[str]) -> str:
    """The cluster's state, of its record, its nodes' states and whether its gateway answers."""
    if record.provider != "existing" and not nodes:
        return "stopped"
    if record.provider != "existing" and all(word == "lost" for word in nodes):
        return "lost"
    if record.state != "ready":
        return record.state
    if "lost" in nodes or not gateway_runs(state, record):
        return "degraded"
    return "ready" if all(word == "ready" for word in nodes) else "starting"


def model_row(
    record: ClusterRecord,
    revision: RevisionRecord,
    replicas: Sequence[ReplicaRow],
    serve_failure: Callable[[], str | None],
) -> dict[str, Any]:
    """A model's row. `serve_failure` is asked for a model without live replicas: Ray Serve's
    reason when it gave up, else None.

    While another revision takes this one's place, its replicas count as far as this one's are
    gone: both answer.
    """
    mine = [r for r in replicas if (r.model, r.revision) == (revision.model, revision.revision)]
    others = [r for r in replicas if r.model == revision.model and r not in mine]
    live = [row for row in mine if row.phase == "ready"]
    if revision.state == "active" and len(live) < revision.replicas:
        mine = mine + [row for row in others if row.phase == "ready"]
        live = [row for row in mine if row.phase == "ready"][: revision.replicas]
    word, message = _model_state(revision, mine, len(live), serve_failure)
    return {
        "name": revision.model,
        "state": word,
        "engine": revision.engine,
        "transport": revision.transport,
        "replicas": {"ready": len(live), "wanted": revision.replicas, **_range(revision)},
        "revision": revision.revision,
        "endpoint": f"{record.gateway_url}/v1",
        "engine_config": live[0].engine_config if live else None,
        "message": message,
        "instances": [_instance(row) for row in mine],
    }


def _model_state(
    revision: RevisionRecord,
    mine: Sequence[ReplicaRow],
    live: int,
    serve_failure: Callable[[], str | None],
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
    failure = serve_failure()
    if failure is not None:
        return "failed", message or failure
    starting = [row.phase for row in mine if row.phase in _PHASES]
    return (starting[-1] if starting else "scheduling"), message


def _range(revision: RevisionRecord) -> dict[str, int]:
    """Between which numbers the autoscaler chooses; nothing for a fixed number."""
    limits = revision.range
    return {"min": limits["min"], "max": limits["max"]} if limits else {}


def _instance(row: ReplicaRow) -> dict[str, Any]:
    data = asdict(row)
    data.pop("engine_config")
    return data


def _group(node_id: str) -> str:
    """Our ids are `group-number`; Ray's own are hexadecimal."""
    return node_id.rsplit("-", 1)[0] if "-" in node_id else "joined"
