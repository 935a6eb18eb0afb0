"""Options that several commands share, and what the boundary hands to a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import typer


class Duration(float):
    """Seconds, written and shown as `30s`, `5m` or `1h30m`.

    A command's default is a constant of its module, `UP_TIMEOUT = Duration(600)`; it is given as a
    number, since reading text loads the spec package.
    """

    def __new__(cls, value: str | float) -> Self:
        return super().__new__(cls, _seconds(value) if isinstance(value, str) else value)

    def __str__(self) -> str:
        for unit, size in (("h", 3600), ("m", 60)):
            if self and self % size == 0:
                return f"{self / size:g}{unit}"
        return f"{float(self):g}s"

    __repr__ = __str__


def _seconds(text: str) -> float:
    from ray_serve_cai.spec.base import Fault, parse_duration

    try:
        return parse_duration(float(text) if text.isdigit() else text)
    except Fault as error:
        raise typer.BadParameter(f"{error}, not {text!r}") from error


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return before it is usable.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        parser=Duration,
        metavar="DURATION",
        help="Give up after this time, such as 90s or 10m.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="CAI_CLUSTER",
        metavar="NAME",
        help="The cluster to act on; not needed when there is only one.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of the spec, such as head.cpu=4. May be repeated.",
    ),
]


@dataclass
class Invocation:
    """One run of `cai`. `command` is what stood after `--` of `cai serve` or of a job."""

    argv: Sequence[str] = ()
    command: Sequence[str] = ()
    json: bool = False
    debug: bool = False


def invocation(context: typer.Context) -> Invocation:
    """The run that the command belongs to."""
    found = context.find_object(Invocation)
    return found if found is not None else Invocation()
