"""Where nodes run: the contract of a provider.

* `launch` starts one node and returns without waiting for it; launching an id that is there
  already is the caller's mistake.
* `list` tells which of the cluster's nodes the provider knows, dead ones as `lost`.
* `terminate` is idempotent, and a node that is not there counts as done. It is never called with
  zero ids: on one platform that means "all".

A provider knows no Ray.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ray_serve_cai.plan.cluster import Machine
from ray_serve_cai.plan.nodes import NodePlan

NodeState = Literal["pending", "running", "lost"]


@dataclass(frozen=True)
class Node:
    """A node as its provider sees it."""

    id: str
    state: NodeState
    message: str = ""


@dataclass(frozen=True)
class LaunchContext:
    """What every node of a cluster needs. `environment` goes to the node agent; secrets are in
    files of `folder`, not in it."""

    folder: Path
    logs: Path
    environment: Mapping[str, str]


class Provider(ABC):
    """Base of all providers."""

    # Whether `up` may start and stop nodes here.
    owns_nodes: bool = True

    def machine(self) -> Machine | None:
        """The one machine that all nodes share, or None."""
        return None

    @abstractmethod
    def launch(self, node: NodePlan, context: LaunchContext) -> Node:
        """Start `node`."""

    @abstractmethod
    def list(self, folder: Path) -> Sequence[Node]:
        """The cluster's nodes."""

    @abstractmethod
    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        """End the nodes and everything they started."""
