"""`cai model`: deploy models on a cluster, look at them, talk to them, remove them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import model_history, output
from ray_serve_cai.cli.options import Cluster, DryRun, Duration, Json, NoWait, Set, Timeout, Yes
from ray_serve_cai.cli.plans import documents, show_deployed, show_plans
from ray_serve_cai.cli.target import deployer_of, session_with, target
from ray_serve_cai.errors import ModelError

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.plan.model import ModelPlan

app = typer.Typer(help="Deploy, show, ask and remove models.", no_args_is_help=True)

DEPLOY_TIMEOUT = Duration(1800)
WAIT_TIMEOUT = Duration(1800)
POLL_SECONDS = 0.5
Specs = Annotated[
    list[Path], typer.Argument(metavar="SPEC...", help="YAML files with `kind: Model`.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


@app.command()
def plan(specs: Specs, cluster: Cluster = None, set_: Set = None, json: Json = False) -> None:
    """Print what `deploy` would do, and do nothing."""
    found = documents("Model", specs, set_)
    with deployer_of(cluster) as (_, _, deployer):
        plans = [deployer.plan(document) for document in found]
    show_plans(
        [each.data() for each in plans],
        many="models",
        json=json,
        more=lambda console: _show_placement(console, plans),
    )


@app.command()
def deploy(
    specs: Specs,
    cluster: Cluster = None,
    set_: Set = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = DEPLOY_TIMEOUT,
    json: Json = False,
) -> None:
    """Deploy models and wait until they answer; the endpoint is the last line of stdout."""
    if dry_run:
        plan(specs, cluster, set_, json)
        return
    found = documents("Model", specs, set_)
    plans = []
    with deployer_of(cluster, "deploy") as (_, record, deployer):
        # All are planned before the first is touched, and each again when its turn comes: the one
        # before it has taken its share of the nodes.
        for document in found:
            deployer.plan(document)
        for document in found:
            each = deployer.plan(document)
            with output.phases(f"model {each.name}", json=json) as report:
                done = deployer.deploy(
                    document, each, report=report, timeout=timeout, wait=not no_wait
                )
            plans.append(done)
    show_deployed(plans, record, json=json)


@app.command("list")
def list_models(cluster: Cluster = None, json: Json = False) -> None:
    """List the models of the cluster."""
    from ray_serve_cai.serving.views import model_rows

    with session_with(cluster) as (state, record):
        rows = model_rows(state, record)
    _show_models(rows, json=json)


@app.command()
def status(name: Name, cluster: Cluster = None, json: Json = False) -> None:
    """Show one model and its replicas."""
    from ray_serve_cai.serving.views import model_row

    with session_with(cluster) as (state, record):
        row = model_row(state, record, name)
    _show_models([row], json=json)
    if not json and row["message"]:
        output.say(row["message"])


@app.command()
def wait(
    name: Name, cluster: Cluster = None, timeout: Timeout = WAIT_TIMEOUT, json: Json = False
) -> None:
    """Return when the model is ready; exit 4 when it is not in time."""
    from ray_serve_cai.serving.views import model_row

    deadline = time.monotonic() + timeout
    _finish(name, cluster, timeout, json=json)
    with (
        session_with(cluster) as (state, record),
        output.phases(f"model {name}", json=json) as report,
    ):
        while (row := model_row(state, record, name))["state"] not in ("ready", "idle"):
            report(row["state"])
            if row["state"] == "failed":
                raise ModelError("CAI-MODEL-002", f'model "{name}": {row["message"]}')
            if time.monotonic() > deadline:
                raise ModelError("CAI-CLUSTER-006", f'model "{name}" is {row["state"]}')
            time.sleep(POLL_SECONDS)
    if json:
        _show_models([row], json=True)
    output.last_line(row["endpoint"], json=json)


@app.command()
def chat(
    name: Name,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="One question; without it, a dialogue."),
    ] = None,
    cluster: Cluster = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest answer.")] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 for the likeliest.")
    ] = 0.0,
) -> None:
    """Ask the model through the gateway, as any OpenAI client would."""
    from ray_serve_cai.serving.chat import Dialogue, gateway_of

    url, key = gateway_of(target(cluster))
    dialogue = Dialogue(url, key, name, max_tokens=max_tokens, temperature=temperature)
    for question in [prompt] if prompt else _questions():
        for piece in dialogue.ask(question):
            print(piece, end="", flush=True)
        print()


@app.command()
def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(metavar="N", min=0, help="Number of replicas.")],
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Change the number of replicas until the next `deploy` of a file, which wins."""
    with deployer_of(cluster, "scale") as (_, _, deployer):
        done = deployer.scale(name, replicas)
    show_plans([done.data()], many="models", json=json, talk=True)


@app.command()
def logs(
    name: Name,
    cluster: Cluster = None,
    tail: Annotated[int, typer.Option("--tail", help="Lines of each log; 0 for all.")] = 100,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only lines of this time.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing.")] = False,
) -> None:
    """Print the logs of the model's replicas."""
    from ray_serve_cai.cluster.logs import print_logs
    from ray_serve_cai.serving.job import log_name
    from ray_serve_cai.serving.revisions import Revisions

    state = target(cluster)
    pattern = log_name(name, "*", "*")
    if not any(state.logs.glob(pattern)):
        Revisions(state).existing(name)
    seconds = None if since is None else float(Duration(since))
    print_logs(state.logs, [pattern], tail=tail, since=seconds, follow=follow)


app.command()(model_history.history)
app.command()(model_history.rollback)


@app.command()
def delete(name: Name, cluster: Cluster = None, yes: Yes = False, json: Json = False) -> None:
    """Remove the model from the endpoint and stop its replicas in order."""
    from ray_serve_cai.serving.revisions import Revisions

    state = target(cluster)
    if Revisions(state).active(name):
        output.confirm(f'Remove model "{name}" from cluster "{state.name}"?', yes)
    with deployer_of(cluster, "delete") as (_, _, deployer):
        removed = deployer.delete(name)
    actions = [{"verb": "delete", "kind": "model", "name": name, "detail": ""}]
    output.emit({"name": name, "actions": actions if removed else []}, json=json, text=None)
    if not json:
        output.say(f"model {name}: removed" if removed else f"model {name}: nothing to remove")


def _finish(name: str, cluster: str | None, timeout: float, *, json: bool) -> None:
    """Do what `deploy --no-wait` left, unless the command that deploys is still at it."""
    from ray_serve_cai.errors import ClusterError
    from ray_serve_cai.serving.revisions import Revisions

    if Revisions(target(cluster)).starting(name) is None:
        return
    try:
        with (
            deployer_of(cluster, "wait") as (state, _, deployer),
            output.phases(f"model {name}", json=json) as report,
        ):
            starting = Revisions(state).starting(name)
            if starting is not None:
                deployer.finish(starting, report=report, timeout=timeout, undo=False)
    except ClusterError as error:
        if error.code != "CAI-CLUSTER-003":
            raise


def _show_placement(console: Console, plans: Sequence[ModelPlan]) -> None:
    for each in plans:
        room = ", ".join(f"{group} holds {n}" for group, n in each.placement.items())
        if each.parallel and each.parallel.placement:
            room = "one replica lies on several nodes"
        console.print(f"{each.name}: {each.transport} ({each.reason}); {room}", highlight=False)
        if each.parallel and each.parallel.workers > 1:
            shown = f"{each.parallel.workers} workers by {each.parallel.executor}"
            console.print(f"{each.name}: {shown} ({each.parallel.reason})", highlight=False)


def _show_models(rows: list[dict[str, Any]], *, json: bool) -> None:
    columns: dict[str, output.Cell] = {
        "name": "name",
        "state": "state",
        "engine": "engine",
        "transport": "transport",
        "ready": lambda row: _ready(row["replicas"]),
        "revision": "revision",
        "endpoint": "endpoint",
    }
    output.emit(
        {"models": rows}, json=json, text=lambda out: out.print(output.table(rows, columns))
    )


def _ready(count: dict[str, int]) -> str:
    limits = f" ({count['min']} to {count['max']})" if "max" in count else ""
    return f"{count['ready']}/{count['wanted']}{limits}"


def _questions() -> Iterator[str]:
    import sys

    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
