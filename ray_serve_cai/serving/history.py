"""The revisions of a model as `history` shows them, from the state folder alone."""

from __future__ import annotations

from typing import Any

from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import SpecProblems
from ray_serve_cai.serving.revisions import RevisionRecord, Revisions
from ray_serve_cai.spec import Document, format_path, masked
from ray_serve_cai.spec.trees import get, leaves

CODE = "code"


def revision_rows(state: ClusterState, model: str) -> list[dict[str, Any]]:
    """One row a revision, newest first. `changed` has what differs from the one before, secrets
    masked; `created` is in epoch seconds. Raises `ModelError` (CAI-MODEL-001)."""
    revisions = Revisions(state)
    records = revisions.of(model)
    if not records:
        revisions.existing(model)
    rows = []
    before: RevisionRecord | None = None
    for record in records:
        changed = _changed(revisions, before, record) if before is not None else []
        rows.append(_row(record, changed))
        before = record
    return rows[::-1]


def _row(record: RevisionRecord, changed: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "revision": record.revision,
        "state": record.state,
        "created": record.created,
        "engine": record.engine,
        "transport": record.transport,
        "replicas": record.replicas,
        "served": record.served,
        "repeats": record.repeats,
        "message": record.message,
        "changed": changed,
    }


def _changed(
    revisions: Revisions, before: RevisionRecord, after: RevisionRecord
) -> list[dict[str, Any]]:
    try:
        old, new = revisions.document(before), revisions.document(after)
    except SpecProblems:
        # Written by another version, or without its values: then what is secret is not known.
        found = _differing(_written(before), _written(after), {}, {})
    else:
        found = _differing(_spec(old), _spec(new), masked(old), masked(new))
    if revisions.code(before) != revisions.code(after):
        found.append({"key": CODE, "before": None, "after": None})
    return found


def _written(record: RevisionRecord) -> dict[str, Any]:
    """Without the notes that a document keeps for itself."""
    return {key: value for key, value in record.raw.items() if not key.startswith("$")}


def _spec(document: Document) -> dict[str, Any]:
    return document.model.model_dump(mode="json")


def _differing(old: Any, new: Any, shown_old: Any, shown_new: Any) -> list[dict[str, Any]]:
    """The keys that differ in the first two trees, with the values of the other two: a secret
    that changed is `***` on both sides."""
    paths = list(dict.fromkeys(path for tree in (old, new) for path, _ in leaves(tree)))
    return [
        {
            "key": format_path(path),
            "before": get(shown_old, path),
            "after": get(shown_new, path),
        }
        for path in paths
        if get(old, path) != get(new, path)
    ]
