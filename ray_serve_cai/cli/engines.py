"""`cai engines`: what can run a model here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Show the engines that a model spec can name.")


@app.callback()
def _engines() -> None:
    # With a callback, Typer keeps `list` a sub-command although it is the only one.
    pass


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


def _install(row: output.Row) -> str:
    extra = row["extra"]
    return f"pip install 'ray-serve-cai[{extra}]'" if extra and not row["installed"] else ""
