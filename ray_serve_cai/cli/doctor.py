"""`cai doctor`: whether this machine can run what a spec asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json
from ray_serve_cai.errors import FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.cli.doctor_checks import Check

    _Show = Callable[[Console], None]

Cloudera = Annotated[
    bool,
    typer.Option("--cloudera", help="Compare this Cloudera AI workload with what cai assumes."),
]
Start = Annotated[
    bool,
    typer.Option(
        "--start",
        help="With --cloudera: also start a small worker and applications, and remove them.",
    ),
]


def doctor(cloudera: Cloudera = False, start: Start = False, json: Json = False) -> None:
    """Check what this machine has and lacks.

    Looks at Python, packages, ports, memory, GPU driver and state folder. The exit status is 1
    when something is wrong that `cai` cannot do without.

    With `--cloudera`, inside a workload, it answers what nobody could try on a real workspace
    before: the exit status is 1 when anything is not as assumed. The output holds no secrets and
    is meant to be pasted into an issue.
    """
    if start and not cloudera:
        raise typer.BadParameter("--start goes with --cloudera")
    if cloudera:
        from ray_serve_cai.cli.cloudera_doctor import run_checklist

        with output.phases("doctor", json=json) as report:
            checks = run_checklist(report, start=start)
        show = _listed(checks)
    else:
        from ray_serve_cai.cli.doctor_checks import run_checks

        checks = run_checks()
        show = _table(checks)
    output.emit({"checks": [check.row() for check in checks]}, json=json, text=show)
    if not (json or cloudera):
        for check in checks:
            if not check.ok:
                output.say(f"{check.name}: {check.hint}")
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(FAILED)


def _table(checks: Sequence[Check]) -> _Show:
    def show(console: Console) -> None:
        rows = [{**check.row(), "result": _result(check)} for check in checks]
        console.print(output.table(rows, ["result", "name", "found", "wanted"]))

    return show


def _listed(checks: Sequence[Check]) -> _Show:
    """Findings can be long: one below the other, with what `cai` assumes and does about it."""

    def show(console: Console) -> None:
        for check in checks:
            lines = [f"{_result(check):6}  {check.name}: {check.found}"]
            if not check.ok:
                lines += [f"        assumed: {check.wanted}", f"        so: {check.hint}"]
            console.print("\n".join(lines), soft_wrap=True)

    return show


def _result(check: Check) -> str:
    if check.ok:
        return "ok"
    return "failed" if check.needed else "note"
