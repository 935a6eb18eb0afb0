"""A Ray that somebody else started: no node of it is ours to start or to stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.base import LaunchContext, Node, Provider


class ExistingProvider(Provider):
    owns_nodes = False

    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        raise ClusterError("CAI-CLUSTER-012", "an existing Ray's nodes are not started by cai")

    def list(self, folder: Path) -> Sequence[Node]:
        return ()

    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        """Nothing is ours."""
