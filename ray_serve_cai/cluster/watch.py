"""What the provider and the agents say of a cluster's nodes.

Both may be many and far away, so a watch that polls asks the provider no oftener than that allows,
looks at the rows only when one was written or removed, and reads only those.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import HEAD
from ray_serve_cai.providers.base import Node, Provider

# So many names of nodes stand in one line.
NAMED = 8
# Two changes of a folder within this time may leave it with one time of change.
CLOCK_SECONDS = 1.0
# Rows, the provider's list, and the state words that follow from them.
_Judged = tuple[dict[str, dict[str, Any]], dict[str, Node] | None, dict[str, str]]


class Watch:
    """Repeated looks at nodes that start."""

    def __init__(self, state: ClusterState, provider: Provider) -> None:
        self._state, self._provider = state, provider
        self._rows: dict[str, dict[str, Any]] = {}
        # Inode and size: a row is renamed into place, while heartbeats only touch it.
        self._files: dict[str, tuple[int, int]] = {}
        self._changed = self._seen = self._looked = 0.0
        self._nodes: dict[str, Node] | None = {}
        self._trouble = ""
        self._next = 0.0
        self._judged: _Judged = ({}, None, {})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Each agent's word on itself, by node id."""
        changed, now = self._folder_changed(), time.monotonic()
        if changed != self._changed:
            self._changed, self._seen = changed, now
        if self._looked <= self._seen + CLOCK_SECONDS:
            self._looked = now
            self._look()
        return self._rows

    def states(self) -> dict[str, str]:
        """Each known node's state word."""
        if time.monotonic() >= self._next:
            self._nodes, self._trouble = _listed(self._state, self._provider)
            self._next = time.monotonic() + self._provider.list_seconds
        rows = self.rows()
        if rows is not self._judged[0] or self._nodes is not self._judged[1]:
            self._judged = (rows, self._nodes, combined(rows, self._nodes))
        return self._judged[2]

    @property
    def unlisted(self) -> str:
        """The state word of a node that nobody knows; it is not lost while nobody was asked."""
        return "pending" if self._nodes is None else "lost"

    def message(self, node_id: str) -> str:
        """What the provider said of the node last."""
        node = (self._nodes or {}).get(node_id)
        return node.message if node is not None else ""

    def phase(self, node_ids: Sequence[str]) -> str:
        """`pending` while the platform holds one of the nodes back for a reason it says."""
        waits = any(self.message(node_id) for node_id in node_ids)
        return "pending" if waits else "starting"

    def described(self, node_ids: Sequence[str]) -> str:
        """The nodes in a line, each with what it waits for where the provider says it."""
        words = [
            f"{node_id} ({said})" if (said := self.message(node_id)) else node_id
            for node_id in node_ids[:NAMED]
        ]
        more = f" and {len(node_ids) - NAMED} more" if len(node_ids) > NAMED else ""
        return ", ".join(words) + more + (f"; {self._trouble}" if self._trouble else "")

    def _folder_changed(self) -> float:
        try:
            # NFS asks its server again when a folder is opened, but not for a mere stat.
            folder = os.open(self._state.folder / "nodes", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return 0.0
        try:
            return os.fstat(folder).st_mtime
        finally:
            os.close(folder)

    def _look(self) -> None:
        files, rows = {}, {}
        for node_id, path in self._state.node_row_paths().items():
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue
            files[node_id] = (found.st_ino, found.st_size)
            known = self._files.get(node_id) == files[node_id]
            rows[node_id] = self._rows[node_id] if known else self._state.read(path) or {}
        self._files, self._rows = files, rows


def node_states(state: ClusterState, provider: Provider) -> dict[str, str]:
    """Each known node's state word, from the provider and the agents' rows, without asking Ray."""
    nodes, _ = _listed(state, provider)
    return combined(state.node_rows(), nodes)


def combined(
    rows: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Node] | None
) -> dict[str, str]:
    """State words from the agents' rows and the provider's list; `nodes` is None when the
    provider does not say, and then the rows are believed."""
    states: dict[str, str] = {}
    # The life of the head that a worker joined; it is of no use to another.
    head = rows.get(HEAD, {}).get("run")
    for node_id, row in rows.items():
        seen = "running" if nodes is None else nodes[node_id].state if node_id in nodes else ""
        # A platform may still call a pod pending whose agent has said more already.
        gone = seen not in ("running", "pending") or row.get("state") == "ended"
        if gone or row.get("head", head) != head:
            states[node_id] = "lost"
        else:
            states[node_id] = "ready" if row.get("state") == "running" else "starting"
    for node_id, node in (nodes or {}).items():
        if node_id not in rows:
            states[node_id] = "lost" if node.state == "lost" else "pending"
    return states


def _listed(state: ClusterState, provider: Provider) -> tuple[dict[str, Node] | None, str]:
    try:
        return {node.id: node for node in provider.list(state.folder)}, ""
    except ClusterError as error:
        if error.code != "CAI-PROVIDER-003":
            raise
        return None, error.message
