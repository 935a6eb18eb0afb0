"""A cluster on the stand-in platform as its provider sees it, without a Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fakes.cloudera.platform import Platform, Worker

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.base import LaunchContext, Node
from ray_serve_cai.providers.registry import get_provider
from ray_serve_cai.spec.cluster import CaiWorkersProvider as Settings


class World:
    """The cluster `demo` of this session."""

    def __init__(self, platform: Platform, name: str = "demo") -> None:
        self.platform = platform
        self.state = ClusterState(name)
        self.state.create()
        self.folder = self.state.folder
        self.provider = get_provider("cai-workers")
        environment = {"CAI_RAY_TEMP": str(platform.project.temp / "ray")}
        self.context = LaunchContext(name, Settings(), self.folder, self.state.logs, environment)

    def set(self, **settings: Any) -> None:
        self.context = replace(self.context, settings=Settings(**settings))

    def launch(self, count: int = 1, **keys: Any) -> list[str]:
        keys = {"cpu": 0.5, "memory": 2**29, **keys}
        nodes = [NodePlan(f"gpu-{n}", "worker", "gpu", **keys) for n in range(count)]
        self.provider.launch(nodes, self.context)
        return [node.id for node in nodes]

    def nodes(self) -> dict[str, Node]:
        return {node.id: node for node in self.provider.list(self.folder)}

    def node(self) -> Node:
        (found,) = self.nodes().values()
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        return self.state.node_rows()

    def worker(self) -> Worker:
        (found,) = self.platform.workers.values()
        return found

    def terminate(self, *ids: str) -> None:
        self.provider.terminate(self.folder, ids)
