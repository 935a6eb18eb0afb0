"""`cai validate`: are the specs right, and do their callbacks exist?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json, Set
from ray_serve_cai.errors import USAGE, Problem

if TYPE_CHECKING:
    from rich.console import Console

Files = Annotated[
    list[str], typer.Argument(metavar="FILE…", help="Spec files; - reads standard input.")
]


def validate(
    files: Files,
    overrides: Set = None,
    json: Json = False,
) -> int:
    """Check spec files: keys, values, variables, and that callbacks can be built.

    Ends with 2 when a file has a fault.
    """
    return examine(files, overrides or (), json=json)


def examine(files: Sequence[str], overrides: Sequence[str], *, json: bool) -> int:
    """Print every fault of the files, and return the exit status."""
    from ray_serve_cai.callbacks.check import check_callbacks
    from ray_serve_cai.spec import read_files

    documents, problems = read_files(files, overrides=overrides)
    for document in documents:
        # stdout is for data; what the user's modules print while they are imported is not.
        with redirect_stdout(sys.stderr):
            problems += check_callbacks(document)
        for note in document.notes:
            output.say(f"{document.origin.shown}: {note}", style="yellow")
    rows = _rows(files, problems)

    def show(console: Console) -> None:
        for row in rows:
            _show(console, row)

    output.emit({"files": rows}, json=json, text=show)
    return 0 if all(row["ok"] for row in rows) else USAGE


def _rows(files: Sequence[str], problems: Iterable[Problem]) -> list[dict[str, Any]]:
    by_path: dict[str, list[Problem]] = {_shown(file): [] for file in files}
    for problem in sorted(problems, key=lambda it: (it.line, it.column)):
        by_path.setdefault(problem.path, []).append(problem)
    return [
        {"path": path, "ok": not found, "errors": [_error(problem) for problem in found]}
        for path, found in by_path.items()
    ]


def _shown(file: str) -> str:
    from ray_serve_cai.spec import shown

    return shown(file)


def _error(problem: Problem) -> dict[str, Any]:
    return {
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "code": problem.code,
        "message": problem.message,
    }


def _show(console: Console, row: dict[str, Any]) -> None:
    if row["ok"]:
        console.print(f"{row['path']}: ok", soft_wrap=True)
    for error in row["errors"]:
        key = f"{error['key']}: " if error["key"] else ""
        place = f"{row['path']}:{error['line']}:{error['column']}"
        console.print(f"{place}: {key}{error['message']} [{error['code']}]", soft_wrap=True)
