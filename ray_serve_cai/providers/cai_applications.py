"""Nodes as Cloudera AI Applications, one each, so that a cluster outlives its launcher.

An application is known by its name, which says cluster and node and ends in a digest of project,
state folder and node; the cluster's folder has a note on each besides.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ray_serve_cai.errors import StateError
from ray_serve_cai.plan.nodes import (
    FOLDER_VARIABLE,
    HEAD,
    HEALTH_VARIABLE,
    PLAN_VARIABLE,
    PUBLIC_VARIABLE,
    NodePlan,
)
from ray_serve_cai.providers.base import LaunchContext, Node, Provider
from ray_serve_cai.providers.cai_api import Api, Row, label_id, own_runtime, state_of, word_of
from ray_serve_cai.providers.cai_record import replace_file
from ray_serve_cai.providers.cai_removal import remove_applications
from ray_serve_cai.providers.cai_script import script_variables, write_script
from ray_serve_cai.spec.cluster import CaiApplicationsProvider as Settings

NOTES = "applications"
PARALLEL = 4
# How long a listing may lag behind a creation.
UNLISTED_SECONDS = 60.0
GIB = 1024**3
# A label of a domain name has 63 characters at most.
LONGEST_PREFIX, LONGEST_NODE, DIGEST = 24, 28, 8


class CaiApplicationsProvider(Provider):
    """Talks to the platform with the variables of the workload that it runs in."""

    # Every look is one call to the platform.
    list_seconds = 3.0

    def __init__(self) -> None:
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        if self._api is None:
            self._api = Api.from_environment()
        return self._api

    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        shared = self._shared(nodes, context)
        pool = ThreadPoolExecutor(PARALLEL)
        try:
            calls = [pool.submit(self._launch, node, shared, context) for node in nodes]
            wait(calls, return_when=FIRST_EXCEPTION)
        finally:
            # After a failure or an interrupt, what has not begun is not made.
            pool.shutdown(cancel_futures=True)
        for call in calls:
            if not call.cancelled():
                call.result()

    def list(self, folder: Path) -> Sequence[Node]:
        rows, notes = self._rows(folder), _notes(folder)
        return [
            _node(node_id, rows.get(node_id), notes.get(node_id, {}))
            for node_id in sorted(rows.keys() | notes.keys())
        ]

    def public_address(self, folder: Path) -> str:
        return str(_notes(folder).get(HEAD, {}).get("url", ""))

    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        rows, notes = self._rows(folder), _notes(folder)
        doomed = {rows[node_id]["id"] for node_id in ids if node_id in rows}
        doomed |= {notes[node_id]["application"] for node_id in ids if node_id in notes}
        remove_applications(self.api, doomed)
        for node_id in ids:
            _note_path(folder, node_id).unlink(missing_ok=True)

    def _rows(self, folder: Path) -> dict[str, Row]:
        """The cluster's applications by node id, as the platform lists them."""
        found = {}
        for row in self.api.applications():
            words = str(row.get("name")).split()
            if len(words) == 4 and row["name"] == name_of(self.api.project, folder, words[2]):
                found[words[2]] = row
        return found

    def _shared(self, nodes: Sequence[NodePlan], context: LaunchContext) -> dict[str, Any]:
        """What is the same for all nodes of the group."""
        settings = context.settings
        assert isinstance(settings, Settings)
        first = nodes[0]
        label = settings.accelerator_label_id
        if first.gpu and first.accelerator and label is None:
            label = label_id(self.api, first.accelerator)
        given = {
            "accelerator_label_id": label if first.gpu else None,
            "resource_profile_id": settings.resource_profile_id,
            "resource_group_id": settings.resource_group_id,
        }
        return {
            "script": write_script(),
            "runtime_identifier": settings.runtime_identifier or own_runtime(self.api),
            **{key: value for key, value in given.items() if value is not None},
        }

    def _launch(self, node: NodePlan, shared: Mapping[str, Any], context: LaunchContext) -> None:
        settings = context.settings
        assert isinstance(settings, Settings)
        prefix = settings.subdomain_prefix or context.cluster
        row = self.api.create_application(
            {
                "name": name_of(self.api.project, context.folder, node.id),
                "subdomain": subdomain_of(self.api.project, context.folder, node.id, prefix),
                "description": f"Node {node.id} of the cai cluster {context.cluster}.",
                "cpu": node.cpu or 1.0,
                "memory": _gigabytes(node),
                "nvidia_gpu": node.gpu,
                "bypass_authentication": _is_public(node, context),
                "environment": _environment(node, context),
                **shared,
            }
        )
        note = {
            "application": row["id"],
            "url": self.api.url_of(row["subdomain"]),
            "launched": time.time(),
        }
        _write_note(_note_path(context.folder, node.id), note)


def name_of(project: str, folder: Path, node_id: str) -> str:
    """Unique in the project: two state folders may each have a cluster of one name."""
    return f"cai {folder.name} {node_id} {_digest(project, folder, node_id)}"


def subdomain_of(project: str, folder: Path, node_id: str, prefix: str) -> str:
    """Subdomains are one space for all projects of a workbench."""
    parts = prefix[:LONGEST_PREFIX], node_id[:LONGEST_NODE], _digest(project, folder, node_id)
    return "-".join(word for part in parts for word in part.split("-") if word)


def _digest(project: str, folder: Path, node_id: str) -> str:
    return hashlib.sha256(f"{project}:{folder.resolve()}:{node_id}".encode()).hexdigest()[:DIGEST]


def _environment(node: NodePlan, context: LaunchContext) -> dict[str, str]:
    """No secret, and no mark of `processes.marks`: the node agent ends whatever carries one, and
    here that would be the platform's own process around it."""
    own = {
        PLAN_VARIABLE: node.to_json(),
        FOLDER_VARIABLE: str(context.folder.resolve()),
        HEALTH_VARIABLE: "front-door" if node.role == HEAD else "plain",
        "CAI_HOME": str(context.folder.resolve().parent.parent),
    }
    if _is_public(node, context):
        own[PUBLIC_VARIABLE] = "1"
    return {**context.environment, **script_variables(), **own}


def _is_public(node: NodePlan, context: LaunchContext) -> bool:
    settings = context.settings
    assert isinstance(settings, Settings)
    return settings.bypass_authentication and node.role == HEAD


def _gigabytes(node: NodePlan) -> float:
    assert node.memory is not None, "the plan gives every pod a size"
    return round(node.memory / GIB, 2)


def _node(node_id: str, row: Row | None, note: Mapping[str, Any]) -> Node:
    launched = float(note.get("launched", 0.0))
    if row is None:
        if time.time() - launched < UNLISTED_SECONDS:
            return Node(node_id, "pending", "the platform does not list it yet")
        return Node(node_id, "lost", "its application is gone")
    if (state := state_of(row)) == "running":
        return Node(node_id, "running")
    return Node(node_id, state, f"its application is {word_of(row).lower()}")


def _note_path(folder: Path, node_id: str) -> Path:
    return folder / NOTES / f"{node_id}.json"


def _notes(folder: Path) -> dict[str, dict[str, Any]]:
    """By node id. Raises `StateError`: CAI-STATE-001 where they cannot be read, -002 for one that
    is damaged."""
    try:
        texts = {path: _text(path) for path in (folder / NOTES).glob("*.json")}
    except OSError as error:
        raise StateError("CAI-STATE-001", f"{folder / NOTES}: {error.strerror}") from error
    return {path.stem: _parsed(path, text) for path, text in texts.items() if text is not None}


def _text(path: Path) -> str | None:
    """None for a note that somebody removed since it was listed."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise StateError("CAI-STATE-002", f"{path}: not what cai wrote: {error}") from error


def _write_note(path: Path, note: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(note))
