"""The revisions of a cluster's models in the state folder: `models/<name>/<revision>.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import ModelError
from ray_serve_cai.spec import Document, ReplicaRange, document_from_raw

RevisionState = Literal["starting", "active", "superseded", "failed", "deleted"]


@dataclass
class RevisionRecord:
    """One deploy. `raw` is the spec without resolved values, `created` epoch seconds.

    `steps` leads from the revision before it, each with the new one's and the old one's replicas;
    the new ones of the first `done` answer. `served` is whether it ever was the model, `repeats`
    the revision that it is again.

    `placement` and `custom_data` are what hooks decided before resources were held; both are
    kept, since those hooks run once for each deploy. `range` is what the count follows, None for a
    fixed one.
    """

    model: str
    revision: int
    state: RevisionState
    raw: dict[str, Any]
    spec_path: str
    project: str
    digest: str
    engine: str
    transport: Literal["grpc", "http"]
    replicas: int
    created: float
    message: str = ""
    placement: dict[str, Any] | None = None
    custom_data: dict[str, Any] = field(default_factory=dict)
    steps: list[list[int]] = field(default_factory=list)
    done: int = 0
    served: bool = False
    repeats: int | None = None
    range: dict[str, Any] | None = None


class Revisions:
    """Reads and writes the revisions of one cluster. Model names may hold slashes."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._folder = state.folder / "models"

    def models(self) -> list[str]:
        """Names of the models that serve, start, or failed to at the last try."""
        names = (path.name.replace("%2F", "/") for path in sorted(self._folder.glob("*")))
        return [name for name in names if self.shown(name)]

    def of(self, model: str) -> list[RevisionRecord]:
        """All revisions, oldest first."""
        files = (self._folder / _file_name(model)).glob("*.json")
        found = [self._state.read_as(RevisionRecord, path) for path in files]
        return sorted(filter(None, found), key=lambda record: record.revision)

    def active(self, model: str) -> RevisionRecord | None:
        """The revision that serves."""
        return self._last(model, "active")

    def starting(self, model: str) -> RevisionRecord | None:
        """The revision whose deploy is under way, or was when its command died."""
        return self._last(model, "starting")

    def replaced(self, model: str) -> list[RevisionRecord]:
        """Revisions that have served until a newer one did, and have not ended yet, or had not
        when the deploy of that one died."""
        return [record for record in self.of(model) if record.state == "active"][:-1]

    def last(self, model: str) -> RevisionRecord | None:
        """The revision that brings the model back: the serving, else the starting one."""
        return self.active(model) or self.starting(model)

    def shown(self, model: str) -> list[RevisionRecord]:
        """Revisions that are the model now: serving, starting, or, without these, failed last."""
        records = self.of(model)
        now = [record for record in records if record.state in ("active", "starting")]
        return now or [record for record in records[-1:] if record.state == "failed"]

    def existing(self, model: str) -> RevisionRecord:
        """The serving, else the starting, else the failed revision.

        Raises `ModelError` (CAI-MODEL-001) when there is none.
        """
        found = self.active(model) or next(iter(self.shown(model)), None)
        if found is None:
            known = ", ".join(self.models()) or "none"
            raise ModelError("CAI-MODEL-001", f'there is no model "{model}" (known: {known})')
        return found

    def earlier(self, model: str, number: int | None = None) -> RevisionRecord:
        """The revision of that number; by default the last that served before the present one.

        Raises `ModelError`: CAI-MODEL-001 for a model never deployed, CAI-MODEL-004.
        """
        records = self.of(model)
        if not records:
            self.existing(model)
        active = self.active(model)
        before = [
            it for it in records if it.served and (not active or it.revision < active.revision)
        ]
        found = before[-1:] if number is None else [it for it in records if it.revision == number]
        if not found:
            known = ", ".join(str(record.revision) for record in records)
            wanted = "earlier revision that served" if number is None else f"revision {number}"
            raise ModelError(
                "CAI-MODEL-004", f'model "{model}" has no {wanted} (revisions: {known})'
            )
        return found[0]

    def again(self, record: RevisionRecord) -> Document:
        """The revision's document for another deploy: with the count that the model has now, or
        had last, unless one of the two follows the load."""
        count = (self.active(record.model) or record).replicas
        documents = [self.document(it) for it in (record, self.active(record.model)) if it]
        if any(isinstance(it.model.replicas, ReplicaRange) for it in documents):
            return documents[0]
        spec = documents[0].model.model_copy(update={"replicas": count})
        return replace(documents[0], spec=spec, raw={**documents[0].raw, "replicas": count})

    def next_number(self, model: str) -> int:
        return max((record.revision for record in self.of(model)), default=0) + 1

    def save(self, record: RevisionRecord) -> None:
        path = self._folder / _file_name(record.model) / f"{record.revision}.json"
        self._state.write(path, asdict(record))

    def save_code(self, record: RevisionRecord, code: str) -> None:
        """Keep the user's code of the deploy; whatever starts the revision again takes this."""
        self._state.write_private(self._code_path(record), code)

    def code(self, record: RevisionRecord) -> str:
        path = self._code_path(record)
        return path.read_text() if path.is_file() else ""

    def _code_path(self, record: RevisionRecord) -> Path:
        return self._folder / _file_name(record.model) / f"{record.revision}.code"

    def retire(self, model: str) -> None:
        """Nothing of the model serves any more; its history stays."""
        # A last one that failed would be shown in place of the one that served.
        for record in {
            it.revision: it for it in (*self.shown(model), *self.of(model)[-1:])
        }.values():
            record.state = "deleted"
            self.save(record)

    def activate(self, record: RevisionRecord) -> None:
        """From now on this revision is the model."""
        record.state, record.served = "active", True
        self.save(record)

    def document(self, record: RevisionRecord) -> Document:
        """The revision's spec with the values it was deployed with."""
        return document_from_raw(
            record.raw,
            self._state.variables(owner_of(record)),
            Path(record.spec_path),
            project=Path(record.project),
        )

    def _last(self, model: str, state: RevisionState) -> RevisionRecord | None:
        found = [record for record in self.of(model) if record.state == state]
        return found[-1] if found else None


def owner_of(record: RevisionRecord) -> str:
    """The key of the revision's resolved values in the state folder."""
    return f"model {record.model} {record.revision}"


def _file_name(model: str) -> str:
    return model.replace("/", "%2F")
