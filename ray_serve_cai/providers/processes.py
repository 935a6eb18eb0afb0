"""The processes of a cluster on this machine, found by a mark in their environment.

Ray's own `ray stop` ends every Ray on the machine, so a cluster must know its own. The mark is
inherited by everything a node starts: Ray's daemons, its workers, engine hosts, the gateway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from ray_serve_cai.errors import ClusterError

FOLDER_MARK = "CAI_CLUSTER_FOLDER"
NODE_MARK = "CAI_NODE"
KILL_SECONDS = 30.0
POLL_SECONDS = 0.02


def marks(folder: Path, node_id: str) -> dict[str, str]:
    """The environment variables that make a process one of node `node_id`."""
    # Ray's agents rename themselves, which would overwrite their environment, marks included.
    return {FOLDER_MARK: str(folder.resolve()), NODE_MARK: node_id, "SPT_NOENV": "1"}


def marked(folder: Path, node_id: str | None = None) -> Iterator[psutil.Process]:
    """This machine's live processes of the cluster, or of one node; never this process."""
    wanted = str(folder.resolve())
    for process in psutil.process_iter():
        environment = _environment(process)
        if environment.get(FOLDER_MARK) != wanted or process.pid == os.getpid():
            continue
        if node_id is None or environment.get(NODE_MARK) == node_id:
            yield process


def node_of(process: psutil.Process) -> str:
    """The node that the process belongs to; empty when it is gone by now."""
    return _environment(process).get(NODE_MARK, "")


def kill_marked(folder: Path, node_id: str | None = None) -> int:
    """SIGKILL them, again until none is left; returns how many there were.

    Raises `ClusterError` (CAI-CLUSTER-013) for processes that do not end.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while doomed := list(marked(folder, node_id)):
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in doomed)
            raise ClusterError("CAI-CLUSTER-013", f"these processes do not end: {pids}")
        for process in doomed:
            killed.add(process.pid)
            _kill(process)
        wait_ended(doomed, KILL_SECONDS / 4)
    return len(killed)


def wait_ended(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Return when none of them runs. A zombie has ended: who reaps it, and when, is not ours."""
    deadline = time.monotonic() + seconds
    while any(map(_still_runs, processes)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if _running(process) else {}
    except (psutil.Error, OSError):
        return {}


def _running(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)


def _still_runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and _running(process)
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return
