"""`cai cluster`: bring clusters up, look at them, change them, take them down."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_serve_cai.cli import options, output
from ray_serve_cai.cli.options import DryRun, Duration, Json, NoWait, Set, Yes
from ray_serve_cai.cli.plans import documents, say_life, show_plans, show_recovery
from ray_serve_cai.errors import CaiError, ClusterError

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.spec import ClusterSpec

app = typer.Typer(help="Start, show, change and remove clusters.", no_args_is_help=True)

UP_TIMEOUT = Duration(600)
RECOVER_TIMEOUT = Duration(1800)
POLL_SECONDS = 0.5
Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="A YAML file with `kind: Cluster`.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=Duration,
        metavar="DURATION",
        help="Give up after this time, such as 90s; by default 10m, and on Cloudera AI the "
        "spec's provider.launch_timeout.",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow a gateway without a key on a public address.")
]


@app.command()
def plan(spec: Spec, set_: Set = None, insecure: Insecure = False, json: Json = False) -> None:
    """Print what `up` would do, and do nothing."""
    from ray_serve_cai.serving.lifecycle import plan_up

    plans = [
        plan_up(document, insecure=insecure) for document in documents("Cluster", [spec], set_)
    ]
    show_plans([each.data() for each in plans], many="clusters", json=json)


@app.command()
def up(
    spec: Spec,
    set_: Set = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="After a failure leave what was opened.")
    ] = False,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Make the cluster what the spec says; the gateway's URL is the last line of stdout."""
    if dry_run:
        plan(spec, set_, insecure, json)
        return
    from ray_serve_cai.serving.lifecycle import up as bring_up

    done = []
    for document in documents("Cluster", [spec], set_):
        with output.phases(f"cluster {document.name}", json=json) as report:
            done.append(
                bring_up(
                    document,
                    report=report,
                    timeout=_patience(document.cluster, timeout),
                    wait=not no_wait,
                    keep=keep,
                    insecure=insecure,
                )
            )
    show_plans(
        [{**each.plan.data(), "gateway_url": each.url} for each in done],
        many="clusters",
        json=json,
        talk=True,
    )
    say_life([each.plan.provider for each in done])
    for each in done:
        if each.url:
            output.last_line(each.url, json=json)


@app.command("list")
def list_clusters(json: Json = False) -> None:
    """List the clusters."""
    from ray_serve_cai.serving.views import cluster_list

    rows = cluster_list()
    columns = ["name", "state", "provider", "gateway_url", "nodes", "models"]
    output.emit(
        {"clusters": rows}, json=json, text=lambda out: out.print(output.table(rows, columns))
    )


@app.command()
def status(name: Name, json: Json = False) -> None:
    """Show a cluster and its nodes."""
    from ray_serve_cai.serving.views import cluster_status

    found = cluster_status(name)

    def show(console: Console) -> None:
        console.print(f"{name}: {found['state']}  {found['gateway_url']}", highlight=False)
        console.print(output.table(found["nodes"], _NODE_COLUMNS))

    output.emit(found, json=json, text=show)


@app.command()
def wait(name: Name, timeout: Timeout = None, json: Json = False) -> None:
    """Return when the cluster is ready; exit 4 when it is not in time."""
    from ray_serve_cai.serving.views import cluster_status

    patience = _patience(_spec_of(name), timeout)
    deadline = time.monotonic() + patience
    with output.phases(f"cluster {name}", json=json) as report:
        _finish(name, report, patience)
        while (found := cluster_status(name))["state"] != "ready":
            report(found["state"])
            if time.monotonic() > deadline:
                raise ClusterError("CAI-CLUSTER-006", f'cluster "{name}" is {found["state"]}')
            time.sleep(POLL_SECONDS)
    output.emit(found, json=json, text=None)
    output.last_line(found["gateway_url"], json=json)


@app.command()
def scale(
    name: Name,
    counts: Annotated[list[str], typer.Argument(metavar="GROUP=N...", help="Wanted node counts.")],
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Change the number of nodes of a group until the next `up` of a file, which wins."""
    from ray_serve_cai.serving.scaling import scale_cluster

    wanted = dict(_count(text) for text in counts)
    patience = _patience(_spec_of(name), timeout)
    with output.phases(f"cluster {name}", json=json) as report:
        done = scale_cluster(name, wanted, report=report, timeout=patience)
    show_plans([done.data()], many="clusters", json=json)


@app.command()
def logs(
    name: Name,
    node: Annotated[
        str | None, typer.Option("--node", metavar="ID", help="One node, or `gateway`.")
    ] = None,
    tail: Annotated[int, typer.Option("--tail", help="Lines of each log; 0 for all.")] = 100,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only lines of this time.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing.")] = False,
) -> None:
    """Print the logs of nodes and gateway."""
    from ray_serve_cai.cluster.logs import print_logs
    from ray_serve_cai.cluster.state import ClusterState

    state = ClusterState(name)
    if not state.logs.is_dir():
        state.existing_record()
    pattern = "gateway" if node == "gateway" else f"node-{node or '*'}"
    patterns = [f"{pattern}.log"] if node else ["node-*.log", "gateway.log"]
    if node and not any(state.logs.glob(patterns[0])):
        raise ClusterError("CAI-CLUSTER-012", f'cluster "{name}" has no log of "{node}"')
    print_logs(state.logs, patterns, tail=tail, since=_seconds(since), follow=follow)


@app.command()
def down(name: Name, yes: Yes = False, json: Json = False) -> None:
    """Stop the cluster's models, gateway and nodes, and remove its state; logs stay."""
    from ray_serve_cai.cluster.state import ClusterState
    from ray_serve_cai.serving.lifecycle import down as take_down

    if ClusterState(name).record_path.is_file():
        output.confirm(f'Remove cluster "{name}" with its models?', yes)
    with output.phases(f"cluster {name}", json=json) as report:
        removed = take_down(name, report=report)
    actions = [{"verb": "delete", "kind": "cluster", "name": name, "detail": ""}]
    output.emit({"name": name, "actions": actions if removed else []}, json=json, text=None)
    if not json:
        output.say(f"cluster {name}: removed" if removed else f"cluster {name}: nothing to remove")


@app.command()
def recover(
    name: Name,
    dry_run: DryRun = False,
    timeout: options.Timeout = RECOVER_TIMEOUT,
    json: Json = False,
) -> None:
    """Bring back a cluster whose head or launcher is gone, each model at its last revision."""
    from ray_serve_cai.serving.recovery import plan_recovery
    from ray_serve_cai.serving.recovery import recover as bring_back

    if dry_run:
        show_recovery(plan_recovery(name), json=json)
        return
    with output.phases(f"cluster {name}", json=json) as report:
        done = bring_back(name, report=report, timeout=timeout)
    if done.lost:
        what = "; ".join(f'model "{model}": {why}' for model, why in done.lost.items())
        raise ClusterError("CAI-CLUSTER-015", f'cluster "{name}" is up, but not whole: {what}')
    data = {**done.plan.data(), "gateway_url": done.url}
    show_plans([data], many="clusters", json=json, talk=True)
    output.last_line(done.url, json=json)


@app.command()
def join(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The head, as host:port.")],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="The cluster's Ray token; default $RAY_AUTH_TOKEN_PATH."
        ),
    ] = None,
    cpu: Annotated[float | None, typer.Option("--cpu", help="CPUs to offer.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory to offer, as 16Gi.")
    ] = None,
    gpu: Annotated[int | None, typer.Option("--gpu", help="GPUs to offer.")] = None,
    group: Annotated[str, typer.Option("--group", help="Node group to count as.")] = "joined",
    node_ip: Annotated[
        str | None, typer.Option("--node-ip", help="This machine's address for the others.")
    ] = None,
) -> None:
    """Run a node of the cluster on this machine, in the foreground, until Ctrl-C."""
    from ray_serve_cai.cluster.join import join as join_head

    raise typer.Exit(
        join_head(
            address, token_file, cpu=cpu, memory=memory, gpu=gpu, group=group, node_ip=node_ip
        )
    )


def _patience(spec: ClusterSpec, given: float | None) -> float:
    """Where a GPU node must be made first, the provider brings a time of its own."""
    if given is not None:
        return given
    return float(getattr(spec.provider, "launch_timeout", UP_TIMEOUT))


def _spec_of(name: str) -> ClusterSpec:
    from ray_serve_cai.cluster.state import ClusterState

    state = ClusterState(name)
    return state.document(state.existing_record()).cluster


def _finish(name: str, report: output.Report, timeout: float) -> None:
    """Do what `up --no-wait` left, unless an `up` is still at it."""
    from ray_serve_cai.serving.lifecycle import finish_up

    try:
        finish_up(name, report=report, timeout=timeout)
    except ClusterError as error:
        if error.code != "CAI-CLUSTER-003":
            raise


_NODE_COLUMNS: dict[str, output.Cell] = {
    "id": "id",
    "role": "role",
    "group": "group",
    "state": "state",
    "ip": "ip",
    "cpu": "cpu",
    "gpu": "gpu",
    "memory": lambda row: f"{row['memory'] / 2**30:.1f}Gi" if row["memory"] else "",
}


def _count(text: str) -> tuple[str, int]:
    group, _, number = text.partition("=")
    if not number.isdigit():
        raise CaiError("CAI-CLI-001", f'"{text}" is not GROUP=N')
    return group, int(number)


def _seconds(text: str | None) -> float | None:
    return None if text is None else float(Duration(text))
