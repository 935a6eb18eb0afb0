"""What bringing a cluster back would do. Pure; what is lost is found out by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_serve_cai.plan.actions import Action, Kind
from ray_serve_cai.plan.cluster import ClusterPlan


@dataclass(frozen=True)
class Beyond:
    """A node or model that cannot be brought back, and why."""

    kind: Kind
    name: str
    reason: str


@dataclass(frozen=True)
class RecoveryPlan:
    """Nodes and gateway by `cluster`, then each of `models` at that revision. Anything in `cannot`
    stays as it is."""

    cluster: ClusterPlan
    models: Mapping[str, int]
    cannot: tuple[Beyond, ...] = ()

    def data(self) -> dict[str, Any]:
        """The JSON form."""
        started = [
            Action("start", "model", model, f"revision {number}").row()
            for model, number in self.models.items()
        ]
        data = self.cluster.data()
        cannot = [vars(each) for each in self.cannot]
        return {**data, "actions": [*data["actions"], *started], "cannot": cannot}
