"""Nodes in memory, which fail where they are told to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.base import LaunchContext, Node, Provider

Fate = Literal["runs", "dies", "dies-unheard", "hangs"]


@dataclass
class FakeProvider(Provider):
    """`fates` say how a node goes on after its launch, by default it runs: its agent has written
    its row. `refused` are ids whose launch raises, `stuck` those whose end raises."""

    fates: dict[str, Fate] = field(default_factory=dict)
    refused: dict[str, Exception] = field(default_factory=dict)
    stuck: dict[str, Exception] = field(default_factory=dict)
    there: dict[str, Node] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)

    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        for node in nodes:
            self._launch(node, context)

    def _launch(self, node: NodePlan, context: LaunchContext) -> None:
        assert node.id not in self.there, "a node that is there was launched again"
        self.launched.append(node.id)
        if node.id in self.refused:
            raise self.refused[node.id]
        fate = self.fates.get(node.id, "runs")
        state = "starting" if fate == "hangs" else "ended" if fate == "dies" else "running"
        if fate != "dies-unheard":
            self._write_row(node, context.folder, state)
        if fate in ("runs", "hangs"):
            self.there[node.id] = Node(node.id, "running")
        (context.logs / f"node-{node.id}.log").write_text("the last words\n")

    def list(self, folder: Path) -> Sequence[Node]:
        return tuple(self.there.values())

    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        assert ids, "terminate was called with zero ids"
        for node_id in ids:
            if node_id in self.stuck:
                raise self.stuck[node_id]
            self.terminated.append(node_id)
            self.there.pop(node_id, None)

    def lose(self, node_id: str) -> None:
        """The node is gone, and nobody said so."""
        self.there.pop(node_id)

    def _write_row(self, node: NodePlan, folder: Path, state: str) -> None:
        row = {"id": node.id, "role": node.role, "group": node.group, "state": state}
        path = folder / "nodes" / f"{node.id}.json"
        shape = {"cpu": node.cpu, "gpu": node.gpu}
        path.write_text(json.dumps(row | shape | {"ip": "127.0.0.1", "ray_port": 1}))


def refusal(node_id: str) -> ClusterError:
    return ClusterError("CAI-CLUSTER-005", f"the platform refused {node_id}")
