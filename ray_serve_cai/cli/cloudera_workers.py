"""Trials of `cai doctor --cloudera --start` on the workers library: a worker from start to end."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray_serve_cai.cli.cloudera_pod import VARIABLES, finding, tried
from ray_serve_cai.cli.doctor_checks import GIB, Check
from ray_serve_cai.cluster.pod_probe import END, GREETING, PROBE_STATUS, ROW
from ray_serve_cai.cluster.state import home
from ray_serve_cai.errors import ClusterError

if TYPE_CHECKING:
    from ray_serve_cai.providers.cai_library import WorkersLibrary

Report = Callable[..., None]
T = TypeVar("T")

CPU, MEMORY = 0.5, 1.0
TOO_MANY_GPUS = 100
# A machine may have to be started for the worker first.
START_SECONDS = 300.0
STEP_SECONDS = 60.0
SETTLE_SECONDS = 10.0
POLL_SECONDS = 1.0
CONNECT_SECONDS = 5.0
# The discard service, which no pod has.
CLOSED_PORT = 9
PROBE_MODULE = "ray_serve_cai.cluster.pod_probe"
KEYS = ("id", "status", "ip_address", "created_at", "running_at")

# Ends as the code of a node's worker does, so that the platform's word for it can be seen.
CODE = """\
import os, subprocess
os.environ["PYTHONPATH"] = {path!r}
status = subprocess.call([{python!r}, "-m", {module!r}, {folder!r}])
os._exit(status)
"""


def worker_trial(report: Report) -> list[Check]:
    """What a worker is like from its launch to its end; it is stopped whatever happens."""
    from ray_serve_cai.providers.cai_library import find_library

    folder = home() / "doctor" / secrets.token_hex(4)
    checks: list[Check] = []
    try:
        folder.mkdir(parents=True)
        library = find_library()
        with _worker(library, _probe(folder)) as worker:
            for check in _watched(library, worker, folder, report):
                checks.append(check)
    except ClusterError as error:
        found = f"{error.code}: {error.message}"
        checks.append(finding("worker", False, found, "starts and ends", error.hint))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks


def gpu_trial() -> Check:
    """Asked for more than there is: refused, or pending for good? Either is handled."""
    from ray_serve_cai.providers.cai_library import find_library, said

    library = find_library()
    wanted = {"cpu": CPU, "memory": MEMORY, "nvidia_gpu": TOO_MANY_GPUS, "code": "pass"}
    assumed = "refused with words, or pending"
    row: dict[str, Any] = {}

    def settled() -> bool:
        row.update(library.list().get(worker, {}))
        return bool(said(row)) or row.get("status") not in ("scheduling", "starting", None)

    try:
        with _worker(library, wanted) as worker:
            _within(SETTLE_SECONDS, settled)
    except ClusterError as error:
        if error.code != "CAI-PROVIDER-002":
            raise
        return finding("too many GPUs", True, f"refused: {error.message}", assumed)
    status = str(row.get("status"))
    found = f"{status}, {said(row) or 'without words'}"
    so = f"A launch of {TOO_MANY_GPUS} GPUs ran: please report this line."
    ok = status not in ("running", "succeeded")
    return finding("too many GPUs", ok, found, assumed, so)


@contextmanager
def _worker(library: WorkersLibrary, wanted: Mapping[str, Any]) -> Iterator[str]:
    """The id of a worker inside the block; raises CAI-PROVIDER-002 when it is refused."""
    launched = library.launch(1, wanted)
    try:
        if launched.refusals:
            raise ClusterError("CAI-PROVIDER-002", "; ".join(launched.refusals))
        yield launched.ids[0]
    finally:
        library.stop([*launched.ids, *launched.half_made])


def _probe(folder: Path) -> dict[str, Any]:
    # Its own folder comes first on a module's path; the worker needs what this process has.
    path = ":".join(entry for entry in sys.path if entry and "cmladdon" not in entry)
    code = CODE.format(path=path, python=sys.executable, module=PROBE_MODULE, folder=str(folder))
    return {"cpu": CPU, "memory": MEMORY, "code": code}


def _watched(
    library: WorkersLibrary, worker: str, folder: Path, report: Report
) -> Iterator[Check]:
    began, seen = time.monotonic(), list[str]()

    def row() -> dict[str, Any]:
        try:
            found = library.list().get(worker, {"status": "not listed"})
        except ClusterError as error:
            # The platform may be out of order for a while.
            found = {"status": error.code}
        if (status := str(found.get("status"))) not in seen:
            seen.append(status)
            report("trying", f"a worker of half a CPU: {status}")
        return found

    started = _within(START_SECONDS, lambda: _started(row()))
    seconds = f"{time.monotonic() - began:.0f} s"
    so = "Nothing more can be tried. What the platform says is in the session's console."
    found = f"{', '.join(seen)}; running with an address after {seconds}"
    yield finding(
        "worker start",
        bool(started),
        found if started else f"{', '.join(seen)}; not in {seconds}",
        "running",
        so,
    )
    if not started:
        return
    missing = [key for key in KEYS if key not in started]
    found = f"{', '.join(sorted(started))}; missing: {', '.join(missing) or 'none'}"
    yield finding(
        "worker listing", not missing, found, ", ".join(KEYS), "Please report this line."
    )
    inside = _within(STEP_SECONDS, lambda: _read(folder / ROW))
    so = "Pods cannot meet in the state folder, or the worker lacks this Python: see its console."
    found = f"{inside['python']}" if inside else f"no word from inside in {STEP_SECONDS:.0f} s"
    yield finding("worker in the home", bool(inside), found, "the same home and Python", so)
    if inside:
        yield from _from_inside(worker, started, inside)
        yield tried("port that listens", lambda: _open_port(inside))
        yield tried("port that is closed", lambda: _closed_port(inside))
        (folder / END).touch()
        yield tried("exit status", lambda: _ended(row))


def _from_inside(
    worker: str, listed: Mapping[str, Any], inside: Mapping[str, Any]
) -> Iterator[Check]:
    found = f"launched {worker}, inside {inside['engine'] or 'not set'}"
    so = "Nodes would not find which of the workers they are: please report this line."
    yield finding("worker id", inside["engine"] == worker, found, "one and the same", so)
    same = listed.get("ip_address") == inside["address"]
    found = f"listed {listed.get('ip_address')}, inside {inside['address']}"
    so = "Nodes publish the address that they see inside: please report this line."
    yield finding("worker address", same, found, "one and the same", so)
    missing = sorted(set(VARIABLES) - set(inside["variables"]))
    found = f"missing: {', '.join(missing) or 'none'}; type {inside['type']}"
    yield finding("worker variables", not missing, found, "as in this pod", "Please report it.")
    size, cpus = inside["shared_memory"] / GIB, inside["cpus"]
    found = f"{size:.2f} GiB of /dev/shm, {cpus} CPUs visible, given {inside['millicores']}"
    yield finding("worker sizes", True, f"{found}, ray {inside['ray'] or 'not on PATH'}", "any")


def _open_port(inside: Mapping[str, Any]) -> Check:
    so = "Traffic between pods is held up: keep all nodes in one pod, or have the mesh exempt it."
    place = (inside["address"], inside["port"])
    try:
        with socket.create_connection(place, CONNECT_SECONDS) as connection:
            heard = connection.recv(len(GREETING))
    except OSError as error:
        return finding(
            "port that listens", False, f"{type(error).__name__}: {error}", "speaks", so
        )
    found = "speaks first" if heard == GREETING else f"says {heard!r}"
    return finding("port that listens", heard == GREETING, found, "speaks first", so)


def _closed_port(inside: Mapping[str, Any]) -> Check:
    so = (
        "A mesh answers for closed ports, so connecting proves nothing: keep tensor parallel "
        "inside one pod."
    )
    try:
        socket.create_connection((inside["address"], CLOSED_PORT), CONNECT_SECONDS).close()
    except OSError as error:
        ok = isinstance(error, ConnectionRefusedError)
        found = type(error).__name__
        return finding("port that is closed", ok, found, "ConnectionRefusedError", so)
    return finding("port that is closed", False, "looks open", "ConnectionRefusedError", so)


def _ended(row: Callable[[], Mapping[str, Any]]) -> Check:
    from ray_serve_cai.providers.cai_states import ENDED

    def ended() -> str:
        status = str(row().get("status"))
        return status if status in ENDED - {"stopping"} else ""

    found = _within(STEP_SECONDS, ended) or f"not ended: {row().get('status')}"
    so = "A node that fails may be shown as ended in order; its row and log still tell."
    wanted = f"failed, after an exit with {PROBE_STATUS}"
    return finding("exit status", found == "failed", found, wanted, so)


def _started(row: Mapping[str, Any]) -> dict[str, Any]:
    there = row.get("status") == "running" and row.get("ip_address") not in (None, "", "unknown")
    return dict(row) if there else {}


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _within(seconds: float, look: Callable[[], T]) -> T | None:
    """The first true value of `look`, or None after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECONDS)
    return found
