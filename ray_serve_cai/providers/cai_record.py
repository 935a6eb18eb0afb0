"""Which worker of Cloudera AI is which node: one file of the cluster's folder.

The platform lists a workload's workers without our names, and to that workload alone, so what
was launched, by whom and when is written down here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ray_serve_cai.errors import StateError
from ray_serve_cai.files import replace_text

RECORD = "workers.json"


@dataclass(frozen=True)
class WorkerRecord:
    """`engine` is the platform's id of the worker, and of the launcher itself for a head in its
    pod; `by` the launching workload. `launched` in epoch seconds."""

    engine: str
    by: str
    launched: float
    gpu: int = 0


def read_workers(folder: Path) -> dict[str, WorkerRecord]:
    """By node id. Raises `StateError` (CAI-STATE-002) for a damaged file."""
    path = folder / RECORD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {node_id: WorkerRecord(**row) for node_id, row in data.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StateError("CAI-STATE-001", f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise StateError("CAI-STATE-002", f"{path}: not what cai wrote: {error}") from error


def add_workers(folder: Path, workers: dict[str, WorkerRecord]) -> None:
    _write(folder, {**read_workers(folder), **workers})


def forget_workers(folder: Path, node_ids: Iterable[str]) -> None:
    gone = set(node_ids)
    known = read_workers(folder)
    if gone & known.keys():
        _write(folder, {key: value for key, value in known.items() if key not in gone})


def replace_file(path: Path, text: str) -> None:
    """`replace_text` for a file of the state folder; raises `StateError` (CAI-STATE-001)."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise StateError("CAI-STATE-001", f"{path}: {error.strerror or error}") from error


def _write(folder: Path, workers: dict[str, WorkerRecord]) -> None:
    data = {node_id: asdict(worker) for node_id, worker in workers.items()}
    replace_file(folder / RECORD, json.dumps(data, indent=1))
