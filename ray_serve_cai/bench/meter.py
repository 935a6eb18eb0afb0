"""CPU and memory of groups of processes, read from the kernel before and after a round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from ray_serve_cai.bench.load import Processes

MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """One process. `cpu` is in seconds and has that of its ended children, which its parent has
    waited for; `memory` in bytes, its share of what several processes share."""

    group: str
    parent: int
    cpu: float
    memory: int


Readings = Mapping[psutil.Process, Reading]


def read(processes: Processes) -> dict[psutil.Process, Reading]:
    """All that run now and may be looked at."""
    readings = {}
    for process, group in processes().items():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            readings[process] = Reading(
                group, process.ppid(), _cpu(process), process.memory_full_info().pss
            )
    return readings


def cpu_between(before: Readings, after: Readings) -> dict[str, float]:
    """Seconds by group. A process that began in between counts whole; one that ended counts where
    its parent waited for it, and is lost where nobody of the groups did."""
    used: dict[str, float] = defaultdict(float)
    by_pid = {process.pid: reading for process, reading in after.items()}
    for process, reading in after.items():
        used[reading.group] += reading.cpu
        if process in before:
            used[reading.group] -= before[process].cpu
    for process, reading in before.items():
        if process not in after and reading.parent in by_pid:
            # The parent's count now has this one's whole life.
            used[by_pid[reading.parent].group] -= reading.cpu
    return dict(used)


def memory(readings: Readings) -> dict[str, float]:
    """MiB by group."""
    held: dict[str, float] = defaultdict(float)
    for reading in readings.values():
        held[reading.group] += reading.memory / MIB
    return {group: round(size, 1) for group, size in held.items()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
