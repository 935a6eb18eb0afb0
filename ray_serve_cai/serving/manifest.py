"""The file in which SMG looks for its workers (`--discovery-provider file`, version 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def manifest_text(workers: Mapping[str, str]) -> str:
    """The manifest of these replicas, ids to endpoints; the same for the same replicas."""
    rows = [{"id": replica_id, "url": url} for replica_id, url in sorted(workers.items())]
    return json.dumps({"version": 1, "workers": rows})


def read_manifest(path: Path) -> dict[str, str]:
    try:
        workers = json.loads(path.read_text())["workers"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    return {worker["id"]: worker["url"] for worker in workers}
