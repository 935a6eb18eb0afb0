"""`cai cloudera`: applications and jobs of Cloudera AI that run `cai serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Duration, Json, Yes, invocation
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.actions import Action, Kind
from ray_serve_cai.plan.nodes import PUBLIC_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.cli.cloudera_workloads import Specs

Row = dict[str, Any]

app = typer.Typer(help="Make Cloudera AI applications and jobs from specs.", no_args_is_help=True)
application = typer.Typer(
    help="Applications: a cluster and its models that stay up.", no_args_is_help=True
)
job = typer.Typer(
    help="Jobs: a cluster and its models for as long as a command runs.", no_args_is_help=True
)
app.add_typer(application, name="application")
app.add_typer(job, name="job")

SpecFiles = Annotated[
    list[Path],
    typer.Argument(metavar="SPEC...", help="YAML files of the project: a Cluster and its Models."),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Its name; by default `cai` and the name of the cluster."),
]
Cpu = Annotated[
    float | None,
    typer.Option("--cpu", help="CPUs; by default what of the cluster runs in it, 1 at least."),
]
Memory = Annotated[
    float | None,
    typer.Option("--memory", help="GB; by default what of the cluster runs in it, or 4 a CPU."),
]
Gpu = Annotated[
    int | None, typer.Option("--gpu", help="GPUs; by default what of the cluster runs in it.")
]
Runtime = Annotated[
    str | None,
    typer.Option("--runtime", help="Image identifier; by default that of this workload."),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME",
        help="Give it this variable as it is set here; the project's members can read it. May be "
        "repeated.",
    ),
]
TheName = Annotated[str, typer.Argument(metavar="NAME", help="The name that `list` shows.")]


@application.command("create")
def create_application(
    specs: SpecFiles,
    name: Name = None,
    subdomain: Annotated[
        str | None,
        typer.Option(
            "--subdomain",
            help="First part of its address: lower-case letters, digits, single hyphens.",
        ),
    ] = None,
    cpu: Cpu = None,
    memory: Memory = None,
    gpu: Gpu = None,
    runtime: Runtime = None,
    env: Env = None,
    bypass_authentication: Annotated[
        bool,
        typer.Option(
            "--bypass-authentication",
            help="Answer without Cloudera's login; the cluster needs an API key.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete the one of this name first.")
    ] = False,
    json: Json = False,
) -> None:
    """Create an application that runs `cai serve SPEC...`; its address is the last line of stdout.

    Returns before it is up: `cai cloudera application list` shows its state.
    """
    from ray_serve_cai.cli import cloudera_workloads as workloads
    from ray_serve_cai.providers.cai_api import Api
    from ray_serve_cai.providers.cai_removal import remove_applications

    found = workloads.Specs(specs)
    if bypass_authentication:
        found.check_open()
    api = Api.from_environment()
    wanted = name or f"cai {found.cluster.name}"
    size = workloads.Size(cpu, memory, gpu)
    body = found.body(api, wanted, size, runtime, env or (), found.arguments())
    body["subdomain"] = subdomain or workloads.default_subdomain(api, found.cluster.name)
    body["description"] = f"cai {found.arguments()}"
    body["bypass_authentication"] = bypass_authentication
    if bypass_authentication:
        body["environment"][PUBLIC_VARIABLE] = "1"
    actions = []
    there = workloads.find(api.applications(), wanted, "application")
    if there is not None and replace:
        output.say(f"application {wanted}: deleting the one that is there")
        remove_applications(api, [there["id"]])
        actions.append(Action("delete", "application", wanted, "replaced"))
    else:
        workloads.refuse_existing(there, "an application", "Pass --replace, or another --name.")
    row = workloads.application_row(api, api.create_application(body))
    actions.append(Action("create", "application", wanted, row["arguments"]))
    _report_created("application", row, actions, found, env or (), json=json)
    output.last_line(row["url"], json=json)


@application.command("list")
def list_applications(json: Json = False) -> None:
    """List the applications that `cai` made, also those that are nodes of a cluster."""
    from ray_serve_cai.cli.cloudera_workloads import application_row, is_ours
    from ray_serve_cai.providers.cai_api import Api

    api = Api.from_environment()
    rows = [application_row(api, row) for row in api.applications() if is_ours(row)]
    _show("applications", rows, ("name", "kind", "state", "url"), json=json)


@application.command("delete")
def delete_application(name: TheName, yes: Yes = False, json: Json = False) -> None:
    """Stop and delete an application that `cai` made; returns when it is gone."""
    from ray_serve_cai.cli.cloudera_workloads import find
    from ray_serve_cai.providers.cai_api import Api
    from ray_serve_cai.providers.cai_removal import remove_applications

    api = Api.from_environment()
    found = find(api.applications(), name, "application")
    if found is not None:
        output.confirm(f'Delete the application "{name}" and what runs in it?', yes)
        remove_applications(api, [found["id"]])
    _report_deleted("application", name, gone=found is not None, json=json)


@job.command("create")
def create_job(
    context: typer.Context,
    specs: SpecFiles,
    name: Name = None,
    cpu: Cpu = None,
    memory: Memory = None,
    gpu: Gpu = None,
    runtime: Runtime = None,
    env: Env = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="CRON", help="When it runs by itself: `0 6 * * *`."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=Duration,
            metavar="DURATION",
            help="End a run after this time, such as 90m.",
        ),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Start it once, now.")] = False,
    json: Json = False,
) -> None:
    """Create a job that runs `cai serve SPEC... -- COMMAND`, where COMMAND stands after `--`.

    The last line on stdout is the job's id or, with --run, that of the run.
    """
    from ray_serve_cai.cli import cloudera_workloads as workloads
    from ray_serve_cai.providers.cai_api import Api

    command = invocation(context).command
    if not command:
        hint = "A job ends when its command does: `cai cloudera job create SPEC... -- COMMAND`."
        raise CaiError("CAI-CLI-001", "there is no COMMAND after `--`", hint=hint)
    found = workloads.Specs(specs)
    api = Api.from_environment()
    wanted = name or f"cai {found.cluster.name}"
    line = found.arguments(command)
    body = found.body(api, wanted, workloads.Size(cpu, memory, gpu), runtime, env or (), line)
    body["arguments"] = line
    if schedule:
        body["schedule"] = schedule
    if timeout:
        body |= {"timeout": max(int(timeout), 1), "kill_on_timeout": True}
    there = workloads.find(api.jobs(), wanted, "job")
    delete_first = f"`cai cloudera job delete '{wanted}'`, or pass another --name."
    workloads.refuse_existing(there, "a job", delete_first)
    made = api.create_job(body)
    actions = [Action("create", "job", wanted, line)]
    runs = [api.create_run(made["id"])] if run else []
    if run:
        actions.append(Action("start", "run", runs[0]["id"], wanted))
    row = workloads.job_row(made, runs)
    _report_created("job", row, actions, found, env or (), json=json)
    output.last_line(row["run"] or row["id"], json=json)


@job.command("list")
def list_jobs(json: Json = False) -> None:
    """List the jobs that `cai` made, each with the state of its last run."""
    from ray_serve_cai.cli.cloudera_workloads import is_ours, job_row
    from ray_serve_cai.providers.cai_api import Api

    api = Api.from_environment()
    rows = [job_row(row, api.runs(row["id"])) for row in api.jobs() if is_ours(row)]
    _show("jobs", rows, ("name", "state", "run", "schedule", "arguments"), json=json)


@job.command("delete")
def delete_job(name: TheName, yes: Yes = False, json: Json = False) -> None:
    """Stop the runs of a job that `cai` made, and delete it; returns when it is gone."""
    from ray_serve_cai.cli.cloudera_workloads import find
    from ray_serve_cai.providers.cai_api import Api
    from ray_serve_cai.providers.cai_removal import remove_job

    api = Api.from_environment()
    found = find(api.jobs(), name, "job")
    if found is not None:
        output.confirm(f'Delete the job "{name}" and end its runs?', yes)
        remove_job(api, found["id"])
    _report_deleted("job", name, gone=found is not None, json=json)


def _report_created(
    kind: Kind,
    row: Row,
    actions: Sequence[Action],
    specs: Specs,
    env: Sequence[str],
    *,
    json: bool,
) -> None:
    variables = specs.variables(env)
    if variables:
        output.say(
            f"{kind} {row['name']}: the specs use {', '.join(variables)}; set them in the "
            "project's settings, or pass --env NAME"
        )
    if not json:
        output.say(f"{kind} {row['name']}: created, runs `cai {row['arguments']}`")
    rows = [action.row() for action in actions]
    output.emit({"actions": rows, kind: row, "variables": variables}, json=json)


def _report_deleted(kind: Kind, name: str, *, gone: bool, json: bool) -> None:
    if not json:
        output.say(f"{kind} {name}: {'deleted' if gone else 'not there'}")
    actions = [Action("delete", kind, name, "").row()] if gone else []
    output.emit({"actions": actions}, json=json)


def _show(noun: str, rows: Sequence[Row], columns: Sequence[str], *, json: bool) -> None:
    def show(console: Console) -> None:
        console.print(output.table(rows, columns))

    output.emit({noun: list(rows)}, json=json, text=show)
