"""`cai callbacks`: which there are, what they do, and one hook tried out."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json, Set
from ray_serve_cai.cli.validate import Files, examine
from ray_serve_cai.errors import CaiError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Show, check and try the callbacks that a model spec can name.")

ClassPath = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="Dotted path of the class, such as callbacks.metrics.StartupMetrics."
    ),
]


@app.command("list")
def list_callbacks(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="SPEC", help="Add those that this model spec names."),
    ] = None,
    json: Json = False,
) -> None:
    """List the callbacks that are built in, in the project's callbacks/, and installed."""
    from ray_serve_cai.callbacks import catalog
    from ray_serve_cai.spec import load_files, models

    documents = models(load_files([model])) if model else []
    with redirect_stdout(sys.stderr):
        rows = [row.data() for row in catalog.list_callbacks(_project(), documents)]

    def show(console: Console) -> None:
        columns = ("path", "source", "hooks", "kwargs", "summary")
        console.print(output.table(rows, columns))

    output.emit({"callbacks": rows}, json=json, text=show)


@app.command()
def show(path: ClassPath, json: Json = False) -> None:
    """Show a callback's hooks, its constructor and its documentation."""
    from ray_serve_cai.callbacks import catalog
    from ray_serve_cai.callbacks.check import importable

    with redirect_stdout(sys.stderr), importable(_project()):
        found = catalog.describe(path)
    output.emit(found, json=json, text=lambda console: _show(console, found))


@app.command()
def check(files: Files, overrides: Set = None, json: Json = False) -> int:
    """Check that the callbacks of spec files can be built; the same as `cai validate`.

    Ends with 2 when a file has a fault.
    """
    return examine(files, overrides or (), json=json)


@app.command()
def run(
    path: ClassPath,
    hook: Annotated[str, typer.Option("--hook", metavar="NAME", help="The hook to run.")],
    kwargs: Annotated[
        str,
        typer.Option(
            "--kwargs",
            metavar="JSON",
            help="The constructor's arguments, as a JSON object; ${VAR} works in its texts.",
        ),
    ] = "{}",
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="FOLDER",
            help="The model's folder in the context; by default the built-in demo model.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run one hook here on a made-up context; print what it changed and returned.

    Nothing is deployed, but the hook itself is not held back: it writes what it writes.
    """
    from ray_serve_cai.callbacks.check import importable
    from ray_serve_cai.callbacks.hooks import HOOKS
    from ray_serve_cai.cli.callbacks_run import try_hook
    from ray_serve_cai.spec.translate import did_you_mean

    if hook not in HOOKS:
        near = did_you_mean(hook, HOOKS)
        raise CaiError(
            "CAI-CLI-001",
            f'"{hook}" is no hook{near}',
            hint=f"The hooks are {', '.join(HOOKS)}.",
        )
    with redirect_stdout(sys.stderr), importable(_project()):
        found = try_hook(path, hook, _object(kwargs), _folder(source))
    output.emit(found, json=json, text=lambda console: _show_run(console, found))


def _project() -> Path:
    from ray_serve_cai.spec import project_of

    # That of a file in the working directory.
    return project_of(Path.cwd() / "spec.yaml")


def _object(text: str) -> dict[str, Any]:
    from json import JSONDecodeError, loads

    # The text may hold a secret, so no message repeats it.
    try:
        value = loads(text)
    except JSONDecodeError as error:
        message = f"--kwargs is not JSON: {error.msg} at character {error.pos + 1}"
        raise CaiError("CAI-CLI-001", message) from None
    if not isinstance(value, dict):
        raise CaiError("CAI-CLI-001", "--kwargs must be a JSON object")
    return value


def _folder(source: Path | None) -> Path:
    from ray_serve_cai.storage.source import BUILT_IN_PREFIX, fetch

    if source is None:
        return fetch(f"{BUILT_IN_PREFIX}demo")
    if not source.is_dir():
        raise CaiError("CAI-STORAGE-001", f"{source}: there is no such folder")
    return source.absolute()


def _show(console: Console, found: dict[str, Any]) -> None:
    console.print(found["constructor"], soft_wrap=True)
    if found["doc"]:
        console.print(f"\n{found['doc']}", soft_wrap=True)
    console.print()
    columns = {
        "hook": "name",
        "when": "point",
        "where": "where",
        "false skips": "false_skips",
    }
    console.print(output.table(found["hooks"], columns))
    for fault in found["faults"]:
        output.say(f"wrong: {fault}", style="yellow")


def _show_run(console: Console, found: dict[str, Any]) -> None:
    from json import dumps

    console.print(f"{found['hook']} returned {dumps(found['returned'])}", soft_wrap=True)
    if found["skips"]:
        console.print(f"which skips {found['skips']}", soft_wrap=True)
    for row in found["changed"]:
        before, after = dumps(row["before"]), dumps(row["after"])
        console.print(f"ctx.{row['field']}: {before} -> {after}", soft_wrap=True)
    if not found["changed"]:
        console.print("the context is as it was", soft_wrap=True)
