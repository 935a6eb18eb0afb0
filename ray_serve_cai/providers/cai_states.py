"""What becomes of a worker, from the platform's listing or from its agent's signs of life."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ray_serve_cai.plan.nodes import ASSIGNMENTS, SILENT_SECONDS
from ray_serve_cai.providers.base import Node
from ray_serve_cai.providers.cai_library import said
from ray_serve_cai.providers.cai_record import WorkerRecord

# A listing may be older than the launch that it follows.
GRACE_SECONDS = 60.0

# The platform's words. Any other is of a worker whose fate is open.
RUNNING = "running"
ENDED = frozenset({"stopping", "stopped", "succeeded", "failed", "timedout"})
UNKNOWN_ADDRESS = ("", "unknown", None)

Records = Mapping[str, WorkerRecord]


def own_nodes(
    folder: Path, records: Records, listed: Mapping[str, Mapping[str, Any]], now: float
) -> list[Node]:
    """Workers of this workload. `listed` is the platform's listing by worker, `now` in epoch
    seconds."""
    assigned = _assigned(folder)
    return [
        _own_node(folder, node_id, record, listed.get(record.engine), now, assigned)
        for node_id, record in records.items()
    ]


def foreign_nodes(folder: Path, records: Records, now: float) -> list[Node]:
    """Workers of other workloads, by the rows that their agents touch as long as they live."""
    silent = {node_id: _silence(folder, node_id, now) for node_id in records}
    living = {
        record.by
        for node_id, record in records.items()
        if (seconds := silent[node_id]) is not None and seconds < SILENT_SECONDS
    }
    return [
        _foreign_node(node_id, record, silent[node_id], now, alive=record.by in living)
        for node_id, record in records.items()
    ]


def _own_node(
    folder: Path,
    node_id: str,
    record: WorkerRecord,
    row: Mapping[str, Any] | None,
    now: float,
    assigned: Collection[str],
) -> Node:
    """Where the platform's word is not settled, an agent that has spoken runs."""
    age = now - record.launched
    if row is None:
        if age < GRACE_SECONDS:
            return Node(node_id, "pending", "the platform does not list it yet")
        return Node(node_id, "lost", "the platform does not list it any more")
    status = str(row.get("status") or "unknown").lower()
    words = "; ".join(word for word in (status, said(row)) if word)
    if status in ENDED:
        return Node(node_id, "lost", f"the platform says {words}")
    if age >= GRACE_SECONDS and record.engine not in assigned:
        # It waits for a word that nobody will give any more.
        return Node(node_id, "lost", "its launcher died before it was told which node it is")
    has_address = row.get("ip_address") not in UNKNOWN_ADDRESS
    if (status == RUNNING and has_address) or _row_path(folder, node_id).exists():
        return Node(node_id, "running")
    if status == RUNNING:
        words = "running, without an address yet"
    elif record.gpu:
        words += f"; it asks for {record.gpu} GPU"
    return Node(node_id, "pending", words)


def _foreign_node(
    node_id: str, record: WorkerRecord, silent: float | None, now: float, *, alive: bool
) -> Node:
    """`alive` is whether another node of the same launcher gives signs of life: without any, a
    worker that never gave one has gone with its launcher."""
    if silent is not None and silent < SILENT_SECONDS:
        return Node(node_id, "running")
    if silent is not None:
        return Node(node_id, "lost", f"no sign of its agent for {silent:.0f} s")
    if alive or now - record.launched < SILENT_SECONDS:
        return Node(node_id, "pending", f"seen by workload {record.by} alone")
    return Node(node_id, "lost", "its agent never gave a sign")


def _assigned(folder: Path) -> Collection[str]:
    """Workers that were told which node they are."""
    try:
        return frozenset(os.listdir(folder / ASSIGNMENTS))
    except FileNotFoundError:
        return ()


def _silence(folder: Path, node_id: str, now: float) -> float | None:
    """Seconds since the agent's last sign; None when there never was one."""
    try:
        return now - _row_path(folder, node_id).stat().st_mtime
    except FileNotFoundError:
        return None


def _row_path(folder: Path, node_id: str) -> Path:
    """The file that the node's agent writes and then touches; gone before each launch."""
    return folder / "nodes" / f"{node_id}.json"
