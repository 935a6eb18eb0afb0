"""`cai model history` and `rollback`: the revisions of a model, and the way back to one."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Cluster, DryRun, Duration, Json, NoWait, Timeout, Yes
from ray_serve_cai.cli.plans import show_deployed, show_plans
from ray_serve_cai.cli.target import deployer_of, target

TIMEOUT = Duration(1800)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
To = Annotated[
    int | None,
    typer.Option(
        "--to",
        metavar="N",
        min=1,
        help="The revision; by default the last that served before the present one.",
    ),
]


def history(name: Name, cluster: Cluster = None, json: Json = False) -> None:
    """List the model's revisions, newest first, and what each changed; also of a deleted one."""
    from ray_serve_cai.serving.history import revision_rows

    rows = revision_rows(target(cluster), name)
    columns: dict[str, output.Cell] = {
        "revision": "revision",
        "state": "state",
        "created": lambda row: _local(row["created"]),
        "engine": "engine",
        "transport": "transport",
        "replicas": "replicas",
        "changed": lambda row: "; ".join(map(_change, row["changed"])),
        "message": _message,
    }
    output.emit(
        {"name": name, "revisions": rows},
        json=json,
        text=lambda out: out.print(output.table(rows, columns)),
    )


def rollback(
    name: Name,
    to: To = None,
    cluster: Cluster = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT,
    json: Json = False,
) -> None:
    """Deploy an earlier revision again: its spec, values and code, as a new revision."""
    from ray_serve_cai.serving.revisions import Revisions

    state = target(cluster)
    record = Revisions(state).earlier(name, to)
    if not dry_run:
        question = f'Take model "{name}" back to revision {record.revision}?'
        output.confirm(question, yes)
    with deployer_of(state.name, None if dry_run else "rollback") as (_, of_cluster, deployer):
        document, plan = deployer.plan_again(record)
        if not dry_run:
            with output.phases(f"model {name}", json=json) as report:
                plan = deployer.deploy(
                    document,
                    plan,
                    report=report,
                    timeout=timeout,
                    wait=not no_wait,
                    repeats=record,
                )
    if dry_run:
        show_plans([plan.data()], many="models", json=json)
    else:
        show_deployed([plan], of_cluster, json=json)


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _change(change: output.Row) -> str:
    if change["before"] is None and change["after"] is None:
        return str(change["key"])
    before, after = (_word(change[side]) for side in ("before", "after"))
    return f"{change['key']}: {before} to {after}"


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _message(row: output.Row) -> str:
    again = f"revision {row['repeats']} again" if row["repeats"] else ""
    return "; ".join(filter(None, (again, row["message"])))
