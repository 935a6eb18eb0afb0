"""`cai serve`: a cluster and its models for as long as this command runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Duration, Set, Timeout, invocation
from ray_serve_cai.errors import FAILED, CaiError, ClusterError, SpecError

if TYPE_CHECKING:
    from ray_serve_cai.spec import Document

SERVE_TIMEOUT = Duration(1800)
WATCH_SECONDS = 2.0
# A worker is believed to live for so long after its last sign, and some more.
EARLIER_SECONDS = 150.0
NO_KEY = "none"


def serve(
    context: typer.Context,
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="YAML files with one Cluster and its Models."),
    ],
    set_: Set = None,
    timeout: Timeout = SERVE_TIMEOUT,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a public gateway without a key.")
    ] = False,
) -> None:
    """Bring everything up, run COMMAND (after `--`) with OPENAI_BASE_URL and OPENAI_API_KEY set,
    tear down, and exit with its status. Without COMMAND, serve until Ctrl-C: nodes that are lost
    are replaced, and inside Cloudera AI the workload's web address shows a status page."""
    from ray_serve_cai.spec import clusters, load_files, models

    documents = load_files(specs, overrides=set_ or ())
    found = clusters(documents)
    if len(found) > 1:
        raise SpecError("CAI-SPEC-007", "cai serve takes one Cluster document, not several")
    command = invocation(context).command
    cluster = found[0]
    with (
        nullcontext() if command else _front_door(cluster),
        _served(cluster, models(documents), timeout, insecure=insecure) as (endpoint, key),
    ):
        status = _run(command, endpoint, key) if command else _watch(cluster, endpoint, timeout)
    raise typer.Exit(status)


@contextmanager
def _front_door(cluster: Document) -> Iterator[None]:
    """On Cloudera AI the process that owns the workload's port from the first second."""
    from ray_serve_cai.cluster.pod import FrontDoor
    from ray_serve_cai.cluster.state import ClusterState

    port = _web_port()
    if port is None:
        yield
        return
    folder = ClusterState(cluster.name).folder
    door = FrontDoor([str(folder), "--port", str(port), "--name", cluster.name])
    door.start()
    try:
        yield
    finally:
        door.stop()


def _web_port() -> int | None:
    """The port that the platform shows to the world; None outside of it.

    In a session with a third-party editor the editor has the first one.
    """
    from ray_serve_cai.cluster.ports import is_taken

    given = [os.environ.get(name, "") for name in ("CDSW_APP_PORT", "CDSW_READONLY_PORT")]
    ports = [int(port) for port in given if port.isdigit()]
    free = [port for port in ports if not is_taken("127.0.0.1", port)]
    if ports and not free:
        raise ClusterError(
            "CAI-CLUSTER-004",
            f"port {' and '.join(map(str, ports))} of this workload is in use",
            hint="End the program that listens there, or serve from an Application.",
        )
    if free and free[0] != ports[0]:
        output.say(f"port {ports[0]} is the editor's; the status page is on {free[0]}")
    return free[0] if free else None


@contextmanager
def _served(
    cluster: Document, models: Sequence[Document], timeout: float, *, insecure: bool
) -> Iterator[tuple[str, str]]:
    """The cluster with its models inside the block, and nothing of it afterwards."""
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.interrupts import passed_over
    from ray_serve_cai.serving.chat import client_key
    from ray_serve_cai.serving.lifecycle import down, up

    with _told(cluster.name, f"cluster {cluster.name}") as report:
        _clear_earlier(cluster, report)
        url = up(cluster, report=report, timeout=timeout, insecure=insecure).url
    try:
        _deploy(cluster.name, models, timeout)
        state = ClusterState(cluster.name)
        yield f"{url}/v1", client_key(state, state.existing_record()) or NO_KEY
    finally:
        # The platform may ask twice, and what is left half way goes on costing.
        with passed_over(), output.phases(f"cluster {cluster.name}") as report:
            down(cluster.name, report=report)


@contextmanager
def _told(cluster: str, title: str) -> Iterator[output.Report]:
    """Progress on stderr and on the status page."""
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.serving.status_files import write_status

    folder = ClusterState(cluster).folder
    last = ("", "")
    with output.phases(title) as report:

        def both(
            phase: str, detail: str = "", done: int | None = None, total: int | None = None
        ) -> None:
            nonlocal last
            report(phase, detail, done, total)
            if (phase, detail) != last:
                last = (phase, detail)
                # A full disk, say: the page shows how old its news are.
                with suppress(OSError):
                    write_status(folder, phase, f"{title}: {detail or phase}")

        yield both


def _clear_earlier(cluster: Document, report: output.Report) -> None:
    """Remove what an earlier `serve` left that was killed: the platform starts an application
    again by itself. Its workers end soon after it, while nodes that are applications live on and
    are taken over; any other cluster that lives is somebody's."""
    from ray_serve_cai.cluster.launcher import known_nodes
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.serving.lifecycle import down

    state = ClusterState(cluster.name)
    record = state.record()
    if record is None or record.provider == "cai-applications":
        return
    deadline = time.monotonic() + (EARLIER_SECONDS if record.provider == "cai-workers" else 0)
    while record.provider == "existing" or _lives(known_nodes(state, record.provider)):
        if record.provider == "existing" or time.monotonic() >= deadline:
            raise ClusterError("CAI-CLUSTER-014", f'cluster "{cluster.name}" is there already')
        report("waiting", "for the nodes of an earlier run to end")
        time.sleep(WATCH_SECONDS)
    down(cluster.name, report=report)


def _lives(nodes: Mapping[str, str]) -> bool:
    return any(word != "lost" for word in nodes.values())


def _deploy(cluster: str, documents: Sequence[Document], timeout: float) -> None:
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.serving.deploy import Deployer
    from ray_serve_cai.serving.session import session

    state = ClusterState(cluster)
    with state.locked("deploy"):
        record = state.existing_record()
        with session(state, record):
            deployer = Deployer(state, record)
            for document in documents:
                with _told(cluster, f"model {document.name}") as report:
                    plan = deployer.plan(document)
                    deployer.deploy(document, plan, report=report, timeout=timeout)


def _run(command: Sequence[str], endpoint: str, key: str) -> int:
    environment = {**os.environ, "OPENAI_BASE_URL": endpoint, "OPENAI_API_KEY": key}
    try:
        process = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise CaiError("CAI-CLI-003", f"{command[0]}: {error.strerror}") from error
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return status if status >= 0 else 128 - status


def _watch(cluster: Document, endpoint: str, timeout: float) -> int:
    """Until interrupted, or until somebody takes the cluster down."""
    from ray_serve_cai.serving.supervision import supervise

    output.last_line(endpoint)
    with _told(cluster.name, f"cluster {cluster.name}") as report:
        supervise(cluster.name, report=report, timeout=timeout)
    output.say(f"cluster {cluster.name}: taken down by another command")
    return FAILED
