"""`cai serve`: a cluster and its models for as long as this command runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Duration, Set, Timeout, invocation
from ray_serve_cai.errors import CaiError, ClusterError, SpecError

if TYPE_CHECKING:
    from ray_serve_cai.spec import Document

SERVE_TIMEOUT = Duration(1800)
WATCH_SECONDS = 2.0
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
    tear down, and exit with its status. Without COMMAND, serve until Ctrl-C."""
    from ray_serve_cai.spec import clusters, load_files, models

    documents = load_files(specs, overrides=set_ or ())
    found = clusters(documents)
    if len(found) > 1:
        raise SpecError("CAI-SPEC-007", "cai serve takes one Cluster document, not several")
    command = invocation(context).command
    with _served(found[0], models(documents), timeout, insecure=insecure) as (endpoint, key):
        status = _run(command, endpoint, key) if command else _watch(found[0].name, endpoint)
    raise typer.Exit(status)


@contextmanager
def _served(
    cluster: Document, models: Sequence[Document], timeout: float, *, insecure: bool
) -> Iterator[tuple[str, str]]:
    """The cluster with its models inside the block, and nothing of it afterwards."""
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.serving.lifecycle import down, up

    if ClusterState(cluster.name).record() is not None:
        raise ClusterError("CAI-CLUSTER-014", f'cluster "{cluster.name}" is there already')
    with output.phases(f"cluster {cluster.name}") as report:
        url = up(cluster, report=report, timeout=timeout, insecure=insecure).url
    try:
        _deploy(cluster.name, models, timeout)
        yield f"{url}/v1", next(iter(cluster.cluster.gateway.api_keys), NO_KEY)
    finally:
        with output.phases(f"cluster {cluster.name}") as report:
            down(cluster.name, report=report)


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
                with output.phases(f"model {document.name}") as report:
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


def _watch(name: str, endpoint: str) -> int:
    """Until interrupted, or until the cluster is lost (status 1)."""
    from ray_serve_cai.serving.views import cluster_list

    output.last_line(endpoint)
    while True:
        time.sleep(WATCH_SECONDS)
        for row in cluster_list():
            if row["name"] == name and row["state"] == "lost":
                output.say(f"cluster {name}: its head is gone")
                return 1
