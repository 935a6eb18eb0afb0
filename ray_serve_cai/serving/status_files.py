"""Two files in a cluster's folder from which the status page lives, so that it needs no Ray.

`status.json` is the word of whoever brings the cluster up and watches it, also before there is a
record; `gateway/replicas.json` is what the gateway actor knows of the replicas. Times are epoch
seconds of the writer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_serve_cai.files import replace_text
from ray_serve_cai.serving.job import ReplicaRow

log = logging.getLogger(__name__)

WRITE_SECONDS = 2.0


@dataclass(frozen=True)
class Status:
    """What a cluster is busy with. `phase` is one word, `message` a line without secrets."""

    phase: str
    message: str = ""
    time: float = 0.0


@dataclass(frozen=True)
class Replicas:
    """The gateway actor's rows, as of `time`."""

    rows: tuple[ReplicaRow, ...]
    time: float


def write_status(folder: Path, phase: str, message: str = "") -> None:
    """Say on the status page what is being done. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(_status_path(folder), asdict(Status(phase, message, time.time())))


def read_status(folder: Path) -> Status | None:
    data = _read(_status_path(folder))
    try:
        return Status(**data) if data else None
    except TypeError:
        return None


def read_replicas(folder: Path) -> Replicas | None:
    """None where the gateway has not written, or is of another version."""
    data = _read(_replicas_path(folder / "gateway"))
    try:
        rows = tuple(ReplicaRow(**row) for row in data["replicas"])
        return Replicas(rows, float(data["time"]))
    except (KeyError, TypeError, ValueError):
        return None


class ReplicaWriter:
    """Writes the rows into the gateway's folder, every `WRITE_SECONDS` at most."""

    def __init__(self, folder: Path) -> None:
        self._path = _replicas_path(folder)
        self._due = 0.0

    def write(self, rows: Sequence[ReplicaRow]) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + WRITE_SECONDS
        try:
            _write(self._path, {"time": time.time(), "replicas": [asdict(row) for row in rows]})
        except OSError:
            # A full disk must not end the gateway; the page shows how old its data are.
            log.exception("the replicas' states could not be written for the status page")


def _status_path(folder: Path) -> Path:
    return folder / "status.json"


def _replicas_path(gateway: Path) -> Path:
    return gateway / "replicas.json"


def _write(path: Path, data: dict[str, Any]) -> None:
    replace_text(path, json.dumps(data))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
