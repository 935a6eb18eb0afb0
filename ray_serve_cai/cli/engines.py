"""`cai engines`: what can run a model here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json
from ray_serve_cai.errors import FAILED, CaiError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Show the engines that a model spec can name.")


@app.command("list")
def list_engines(json: Json = False) -> None:
    """List the engines, and what to install for those that are missing."""
    from ray_serve_cai.engines.registry import get_registry

    rows = [
        {
            "name": info.name,
            "installed": info.installed,
            "extra": info.extra,
            "summary": info.summary,
        }
        for info in get_registry().list_engines()
    ]

    def show(console: Console) -> None:
        columns: dict[str, output.Cell] = {
            "name": "name",
            "installed": "installed",
            "install": _install,
            "for": "summary",
        }
        console.print(output.table(rows, columns))

    output.emit({"engines": rows}, json=json, text=show)


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            metavar="ENGINE",
            help="Name of an engine, or dotted path of a class, such as my.Engine.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="SOURCE", help="The model that the engine is given."),
    ] = "builtin:demo",
    args: Annotated[
        str,
        typer.Option("--args", metavar="JSON", help="The engine's arguments, as a JSON object."),
    ] = "{}",
    json: Json = False,
) -> int:
    """Start an engine here and see whether it keeps the contract; every rule by name.

    Ends with 1 when a rule is broken.
    """
    from ray_serve_cai.callbacks.check import importable
    from ray_serve_cai.engines.contract import FAILURES, check_engine
    from ray_serve_cai.engines.registry import get_registry
    from ray_serve_cai.spec import project_of
    from ray_serve_cai.storage.source import fetch

    given = {"served_model_name": "checked", **_object(args)}
    with _talk_on_stderr(), importable(project_of(Path.cwd() / "spec.yaml")):
        kind = get_registry().get(path).load()
        folder = fetch(model)
        failures = check_engine(lambda: kind.from_args(given, folder))
    broken = {failure.name: failure.message for failure in failures}
    rows = [
        {
            "rule": name,
            "ok": name not in broken,
            "found": broken.get(name, ""),
            "broken_when": when,
        }
        for name, when in FAILURES.items()
    ]

    def show(console: Console) -> None:
        console.print(output.table(rows, {"rule": "rule", "ok": "ok", "found": "found"}))

    output.emit({"engine": path, "rules": rows}, json=json, text=show)
    return FAILED if broken else 0


@contextmanager
def _talk_on_stderr() -> Iterator[None]:
    """Engines and their processes print; stdout is for the result."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


def _object(text: str) -> dict[str, Any]:
    from json import JSONDecodeError, loads

    try:
        value = loads(text)
    except JSONDecodeError as error:
        raise CaiError("CAI-CLI-001", f"--args is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CaiError("CAI-CLI-001", "--args must be a JSON object")
    return value


def _install(row: output.Row) -> str:
    extra = row["extra"]
    return f"pip install 'ray-serve-cai[{extra}]'" if extra and not row["installed"] else ""
