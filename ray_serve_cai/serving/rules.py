"""By which rule the replicas of each model are counted: `gateway/scaling.json` in the cluster's
folder, for the next life of the gateway's actor and for who looks without Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_serve_cai.spec import ReplicaRange


@dataclass(frozen=True)
class Rule:
    """How the replicas of a model's serving revision are counted: `count` now, and the range as
    data, None for a fixed number. `application` is Serve's name of the revision. `paused`: while a
    deploy is under way the counts are its affair."""

    model: str
    revision: int
    application: str
    count: int
    range: dict[str, Any] | None = None
    paused: bool = False

    @property
    def limits(self) -> ReplicaRange | None:
        return None if self.range is None else ReplicaRange(**self.range)


def rules_path(gateway: Path) -> Path:
    return gateway / "scaling.json"


def read_rules(gateway: Path) -> dict[str, Rule]:
    """The rules in the gateway's folder by model; none when it has not written any."""
    try:
        rules = [Rule(**row) for row in json.loads(rules_path(gateway).read_text())["rules"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {rule.model: rule for rule in rules}
