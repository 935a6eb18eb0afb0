"""The workers API with workers that are records: each call is counted, nothing is started.

Answers are JSON text that is parsed anew at each call, which is what a launcher pays for them on
the platform. The last worker of a larger launch is scheduled `late_seconds` after the others.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from typing import Any

calls: Counter[str] = Counter()
late_seconds = 0.0
_workers: dict[str, dict[str, Any]] = {}
_scheduled: dict[str, float] = {}


def launch_workers(
    n: int,
    cpu: float,
    memory: float,
    nvidia_gpu: int = 0,
    kernel: str = "",
    script: str = "",
    code: str = "",
    accelerator_label_id: int | None = None,
    resource_profile_id: int | None = None,
    resource_group_id: int | None = None,
    env: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    calls["launch_workers"] += 1
    made = []
    for number in range(n):
        key = secrets.token_hex(8)
        late = late_seconds if n > 1 and number == n - 1 else 0.0
        _scheduled[key] = time.monotonic() + late
        row = {"id": key, "app_url": f"https://{key}.ml.example.com/", "status": "scheduling"}
        _workers[key] = {**row, "created_at": "2026-01-01T00:00:00Z", "ip_address": "unknown"}
        made.append(_workers[key])
    return list(json.loads(json.dumps(made)))


def list_workers() -> list[dict[str, Any]]:
    calls["list_workers"] += 1
    for number, (key, row) in enumerate(_workers.items()):
        if row["status"] == "scheduling" and time.monotonic() >= _scheduled[key]:
            address = f"10.100.{number // 250}.{number % 250 + 1}"
            row.update(status="running", ip_address=address, running_at="2026-01-01T00:01:00Z")
    return list(json.loads(json.dumps(list(_workers.values()))))


def stop_workers(*ids: str) -> list[Any]:
    calls["stop_workers"] += 1
    for key in ids or list(_workers):
        _workers.pop(key, None)
    return []


def forget() -> None:
    """Begin again without workers and with a count of zero."""
    calls.clear()
    _workers.clear()
    _scheduled.clear()
