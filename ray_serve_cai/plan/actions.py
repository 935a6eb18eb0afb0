"""What would be done: the one shape that `plan`, `--dry-run` and the executing commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Verb = Literal["create", "replace", "scale", "delete", "start"]
Kind = Literal["cluster", "node", "gateway", "model", "application", "job", "run"]


@dataclass(frozen=True)
class Action:
    """One step. `name` is the thing acted on, `detail` a line of plain text without secrets."""

    verb: Verb
    kind: Kind
    name: str
    detail: str = ""

    def row(self) -> dict[str, str]:
        """The JSON form, one object of a plan's `actions`."""
        return asdict(self)
