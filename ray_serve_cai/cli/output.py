"""The one way out of a command: stdout is data, stderr is talk.

Rich is imported when something is printed, so that `cai --help` does not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from json import dumps
from typing import TYPE_CHECKING, Any, Protocol

import typer

from ray_serve_cai.errors import FAILED, CaiError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ray_serve_cai.storage.watch import Watch

SCHEMA = "cai/v1"

Row = Mapping[str, Any]
Cell = str | Callable[[Row], object]

# Rich cuts lines at 80 columns where it finds no terminal; programs want whole lines.
_PIPE_WIDTH = 10_000

_STYLES = {
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "pending": "yellow",
    "scheduling": "yellow",
    "downloading": "yellow",
    "loading": "yellow",
    "degraded": "yellow",
    "note": "yellow",
    "failed": "red",
    "lost": "red",
    "idle": "dim",
    "stopped": "dim",
}

_SIGNS = {
    "create": ("+", "green"),
    "start": ("+", "green"),
    "join": ("+", "green"),
    "delete": ("-", "red"),
    "stop": ("-", "red"),
    "leave": ("-", "red"),
}


class Report(Protocol):
    """Says how far a long command is. `done` and `total` are bytes."""

    def __call__(
        self, phase: str, detail: str = "", done: int | None = None, total: int | None = None
    ) -> None: ...


def emit(
    data: Mapping[str, Any], *, json: bool, text: Callable[[Console], None] | None = None
) -> None:
    """Write a command's result: one JSON object, or what `text` prints on the console."""
    if json:
        print(dumps({"schema": SCHEMA, **data}, indent=2, allow_nan=False), flush=True)
    elif text is not None:
        text(_data_console())


def table(rows: Sequence[Row], columns: Sequence[str] | Mapping[str, Cell]) -> Table:
    """A table of the JSON rows. `columns` lists keys, or maps a header to a key or a function."""
    from rich.table import Table
    from rich.text import Text

    if not isinstance(columns, Mapping):
        columns = {key.replace("_", " "): key for key in columns}
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for header in columns:
        grid.add_column(header.upper(), overflow="fold")
    for row in rows:
        words = [_cell(row, cell) for cell in columns.values()]
        grid.add_row(*(Text(word, style=_STYLES.get(word, "")) for word in words))
    return grid


def actions_table(rows: Sequence[Row]) -> Table:
    """The `actions` of a plan, one a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(4):
        grid.add_column(overflow="fold")
    for row in rows:
        sign, style = _SIGNS.get(row["verb"], ("~", "yellow"))
        verb = Text(f"{sign} {row['verb']}", style=style)
        grid.add_row(verb, Text(row["kind"]), Text(row["name"], "bold"), Text(row["detail"]))
    if not rows:
        grid.add_row(Text("nothing to do"))
    return grid


def say(message: str, *, style: str = "") -> None:
    """One line, or a few, on stderr."""
    if sys.stderr.isatty():
        _talk_console().print(message, style=style, soft_wrap=True)
    else:
        print(message, file=sys.stderr, flush=True)


def last_line(url: str, *, json: bool = False) -> None:
    """The line that a script takes with `tail -1`; with `json` the object has it already."""
    if not json:
        print(url, flush=True)


def confirm(question: str, yes: bool) -> None:
    """Return when the user agrees; end the command, with nothing changed, when not."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CaiError("CAI-CLI-002", f"{question} There is no terminal to ask at.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        say("Nothing was changed.")
        raise typer.Exit(FAILED)


@contextmanager
def phases(title: str, *, json: bool = False) -> Iterator[Report]:
    """Progress of long work on stderr: live on a terminal, else one line for each new phase."""
    if json or not sys.stderr.isatty():
        yield _plain_report(title)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    # Live output is wiped at the end: the command says in its own words how it went.
    with Progress(
        *columns, TimeElapsedColumn(), console=_talk_console(), transient=True
    ) as progress:
        task = progress.add_task(title, total=None)

        def report(
            phase: str, detail: str = "", done: int | None = None, total: int | None = None
        ) -> None:
            progress.update(task, description=_phase_line(title, phase, detail, done, total))

        yield report


@contextmanager
def transfer(title: str, *, json: bool = False) -> Iterator[Watch]:
    """Progress of a transfer on stderr: bytes, rate and time left on a terminal, else a line when
    it is known what there is to do."""
    if json or not sys.stderr.isatty():
        from ray_serve_cai.cli.transfer import SaidWatch

        yield SaidWatch(title, None if json else say)
        return
    from ray_serve_cai.cli.transfer import live

    with live(title, _talk_console()) as watch:
        yield watch


def error_data(error: CaiError) -> dict[str, Any]:
    """The JSON form of a failure."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def fail(error: CaiError, *, json: bool) -> None:
    """Write a failure where the user looks for it."""
    if json:
        emit(error_data(error), json=True)
        return
    say(f"error {error.code}: {error.message}", style="red")
    if error.hint:
        say(f"hint: {error.hint}")


def _plain_report(title: str) -> Report:
    last = ""

    def report(
        phase: str, detail: str = "", done: int | None = None, total: int | None = None
    ) -> None:
        nonlocal last
        if phase != last:
            last = phase
            say(_phase_line(title, phase, detail, None, total))

    return report


def _phase_line(title: str, phase: str, detail: str, done: int | None, total: int | None) -> str:
    words = [f"{title}: {phase}", detail]
    if done is not None:
        words.append(_size(done) + (f" of {_size(total)}" if total else ""))
    elif total:
        words.append(_size(total))
    return " ".join(word for word in words if word)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _cell(row: Row, cell: Cell) -> str:
    value = cell(row) if callable(cell) else row.get(cell)
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _data_console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


@cache
def _talk_console() -> Console:
    # One for the process: lines printed through it do not tear a live display apart.
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
