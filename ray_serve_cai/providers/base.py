"""Where nodes run: the contract of a provider.

* `launch` starts equal nodes of one group and returns without waiting for them; launching an id
  that is there already is the caller's mistake.
* `list` tells which of the cluster's nodes the provider knows, dead ones as `lost`. It asks the
  platform once, however many nodes there are.
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
from ray_serve_cai.spec.cluster import Provider as ProviderSpec

NodeState = Literal["pending", "running", "lost"]


@dataclass(frozen=True)
class Node:
    """A node as its provider sees it. `message` says why it is pending or how it was lost."""

    id: str
    state: NodeState
    message: str = ""


@dataclass(frozen=True)
class LaunchContext:
    """What every node of a cluster needs. `environment` goes to the node agent and carries no
    secret: those are in files of `folder`. `settings` is the spec's `provider`."""

    cluster: str
    settings: ProviderSpec
    folder: Path
    logs: Path
    environment: Mapping[str, str]


class Provider(ABC):
    """Base of all providers."""

    # Whether `up` may start and stop nodes here.
    owns_nodes: bool = True
    # How often, in seconds, `list` may be asked while nodes start.
    list_seconds: float = 0.05

    def machine(self) -> Machine | None:
        """The one machine that all nodes share, or None."""
        return None

    def known(self, folder: Path) -> Sequence[str]:
        """Ids of the nodes that may be there, for ending them all."""
        return [node.id for node in self.list(folder)]

    @abstractmethod
    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        """Start `nodes`, all of one group; `list` knows each of them from then on.

        Raises `ClusterError` (CAI-PROVIDER-002) with the platform's own words when it refuses.
        What it had started by then is ended by `terminate`, which the caller calls.
        """

    @abstractmethod
    def list(self, folder: Path) -> Sequence[Node]:
        """The cluster's nodes.

        Raises `ClusterError` (CAI-PROVIDER-003) when the platform gives no usable answer now.
        """

    def public_address(self, folder: Path) -> str:
        """The head's base URL from outside the cluster, or "" where there is none."""
        return ""

    def out_of_reach(self, folder: Path, ids: Sequence[str]) -> Mapping[str, str]:
        """Those of `ids` that live and cannot be ended from here, with the reason."""
        return {}

    @abstractmethod
    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        """End the nodes and everything they started."""
