"""The state folder of a cluster: `${CAI_HOME:-~/.cai}/clusters/<name>/`.

Every write is a new file renamed into place. Files keep the `${…}` text of a spec; resolved
values lie in `secrets.json` (mode 0600) alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import filelock

from ray_serve_cai.errors import ClusterError, StateError
from ray_serve_cai.files import replace_text
from ray_serve_cai.spec import Document, document_from_raw
from ray_serve_cai.spec.base import NAME_PATTERN

LOCK_POLL_SECONDS = 0.1
# NFS clients may show a file's time up to a minute late.
LEASE_SECONDS = 90.0
CLUSTER = "cluster"
NODES = "nodes"
T = TypeVar("T")
_NAME = re.compile(NAME_PATTERN)


@dataclass
class ClusterRecord:
    """`cluster.json`. `raw` is the spec without resolved values, `created` epoch seconds, `fixed`
    the digests of what cannot change while the cluster runs."""

    name: str
    provider: str
    state: str
    revision: int
    raw: dict[str, Any]
    spec_path: str
    fixed: dict[str, Any]
    created: float
    ray_address: str = ""
    gateway_url: str = ""
    gateway_port: int = 0
    metrics_port: int = 0
    temp_folder: str = ""
    scaled: dict[str, int] = field(default_factory=dict)
    message: str = ""


def home() -> Path:
    """`$CAI_HOME`, by default `~/.cai`."""
    return Path(os.environ.get("CAI_HOME") or "~/.cai").expanduser()


def all_clusters() -> list[ClusterState]:
    """Every cluster that has a record, by name."""
    folder = home() / "clusters"
    # Not by a pattern, which takes a folder that may not be read for an empty one.
    there = os.listdir(folder) if folder.exists() else []
    names = [name for name in sorted(there) if _NAME.fullmatch(name)]
    found = [ClusterState(name) for name in names]
    return [state for state in found if state.record_path.is_file()]


class ClusterState:
    """Reads and writes one cluster's folder."""

    def __init__(self, name: str) -> None:
        """Raises `ClusterError` (CAI-CLUSTER-001) for what no cluster can be called: the name
        becomes part of a path that `clear` empties."""
        if not _NAME.fullmatch(name):
            raise ClusterError("CAI-CLUSTER-001", f'"{name}" is not the name of a cluster')
        self.name = name
        self.folder = home() / "clusters" / name

    @classmethod
    def at(cls, folder: Path) -> ClusterState:
        """The state in that folder, wherever `CAI_HOME` points."""
        state = cls(folder.name)
        state.folder = folder
        return state

    @property
    def record_path(self) -> Path:
        return self.folder / "cluster.json"

    @property
    def token_path(self) -> Path:
        return self.folder / "token"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def create(self) -> None:
        """Make the folder and the cluster's Ray token, if they are not there."""
        with _state_errors(self.folder):
            for folder in (self.folder, self.logs, self.folder / "nodes", self.folder / "models"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.token_path.exists():
                self.write_private(self.token_path, secrets.token_urlsafe(48))

    def record(self) -> ClusterRecord | None:
        return self.read_as(ClusterRecord, self.record_path)

    def existing_record(self) -> ClusterRecord:
        """The record; raises `ClusterError` (CAI-CLUSTER-001) when there is no such cluster."""
        record = self.record()
        if record is None:
            names = ", ".join(state.name for state in all_clusters()) or "none"
            raise ClusterError(
                "CAI-CLUSTER-001", f'there is no cluster "{self.name}" (known: {names})'
            )
        return record

    def document(self, record: ClusterRecord) -> Document:
        """The cluster's spec as `up` last read it, with the values it had then."""
        return document_from_raw(record.raw, self.variables(), Path(record.spec_path))

    def save(self, record: ClusterRecord) -> None:
        self.write(self.record_path, asdict(record))

    def variables(self, owner: str = CLUSTER) -> dict[str, str]:
        """The resolved `${…}` values that `owner`, the cluster or a model's revision, was made
        with. Each has its own: a new value must not reach what runs with the old one."""
        return dict((self.read(self.folder / "secrets.json") or {}).get(owner, {}))

    def set_variables(self, values: dict[str, str], owner: str = CLUSTER) -> None:
        path = self.folder / "secrets.json"
        known = self.read(path) or {}
        if values or owner in known:
            self.write(path, {**known, owner: values})

    def internal_key(self) -> str:
        """The key of the gateway's control plane and of HTTP replicas; made once."""
        path = self.folder / "gateway.key"
        if not path.exists():
            self.write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def node_rows(self) -> dict[str, dict[str, Any]]:
        """What each node's agent wrote of itself."""
        return {node_id: self.read(path) or {} for node_id, path in self.node_row_paths().items()}

    def node_row_paths(self) -> dict[str, Path]:
        """The files of `node_rows` by node id."""
        folder = self.folder / "nodes"
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return {}
        return {n.removesuffix(".json"): folder / n for n in names if n.endswith(".json")}

    def forget_node(self, node_id: str) -> None:
        (self.folder / "nodes" / f"{node_id}.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything but the logs."""
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if path.is_dir() and path != self.logs:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and path.name != "lock":
                path.unlink(missing_ok=True)
        if self.logs.is_dir() and not any(self.logs.iterdir()):
            self.logs.rmdir()

    def read_as(self, kind: type[T], path: Path) -> T | None:
        """A file as the dataclass that was written to it; CAI-STATE-002 when it does not fit."""
        data = self.read(path)
        try:
            return None if data is None else kind(**data)
        except TypeError as error:
            raise StateError("CAI-STATE-002", f"{path}: of another version: {error}") from error

    def read(self, path: Path) -> dict[str, Any] | None:
        """A JSON file's object, or None; raises `StateError` (CAI-STATE-002) when damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, UnicodeDecodeError) as error:
            raise StateError("CAI-STATE-002", f"{path}: not what cai wrote: {error}") from error
        except OSError as error:
            raise StateError("CAI-STATE-001", f"{path}: {error.strerror}") from error
        if not isinstance(data, dict):
            raise StateError("CAI-STATE-002", f"{path}: not what cai wrote")
        return data

    def write(self, path: Path, data: dict[str, Any]) -> None:
        self.write_private(path, json.dumps(data, indent=1))

    def write_private(self, path: Path, text: str) -> None:
        """Replace the file by one with this text that only this user may read."""
        with _state_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_text(path, text, durable=True)

    @contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Hold the cluster for one change.

        Raises `ClusterError` (CAI-CLUSTER-003) naming the holder at once. The lock of a dead
        process on this host is taken over; so is that of another pod which gives no sign of
        life, after a wait of `LEASE_SECONDS`.
        """
        with _state_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / "lock"
        # An existence lock, since flock is not dependable on NFS. Its holder touches it.
        lock = filelock.SoftFileLease(
            path, lease_duration=LEASE_SECONDS, poll_interval=LOCK_POLL_SECONDS
        )
        try:
            with _state_errors(self.folder):
                lock.acquire(timeout=_patience(path))
        except filelock.Timeout:
            holder = f"process {lock.pid}" if lock.pid else "another process"
            raise ClusterError(
                "CAI-CLUSTER-003",
                f'{holder} is changing cluster "{self.name}", so {purpose} cannot (lock: '
                f"{self.folder / 'lock'})",
            ) from None
        try:
            yield
        finally:
            lock.release()
            self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def now() -> float:
    return time.time()


def _patience(lock: Path) -> float:
    """How long to try for the lock: one that its holder does not touch any more runs out."""
    try:
        silent = time.time() - lock.stat().st_mtime
    except OSError:
        silent = 0.0
    return 2 * LOCK_POLL_SECONDS if silent < LEASE_SECONDS / 2 else LEASE_SECONDS + 10.0


@contextmanager
def _state_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except filelock.Timeout:
        raise
    except OSError as error:
        raise StateError("CAI-STATE-001", f"{path}: {error.strerror or error}") from error
