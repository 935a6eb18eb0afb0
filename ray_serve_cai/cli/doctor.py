"""`cai doctor`: whether this machine can run what a spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json
from ray_serve_cai.errors import FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from ray_serve_cai.cli.doctor_checks import Check


def doctor(json: Json = False) -> None:
    """Check what this machine has and lacks.

    Looks at Python, packages, ports, memory, GPU driver and state folder. The exit status is 1
    when something is wrong that `cai` cannot do without.
    """
    from ray_serve_cai.cli.doctor_checks import run_checks

    checks = run_checks()

    def show(console: Console) -> None:
        rows = [{**check.row(), "result": _result(check)} for check in checks]
        console.print(output.table(rows, ["result", "name", "found", "wanted"]))

    output.emit({"checks": [check.row() for check in checks]}, json=json, text=show)
    for check in checks:
        if not check.ok and not json:
            output.say(f"{check.name}: {check.hint}")
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(FAILED)


def _result(check: Check) -> str:
    if check.ok:
        return "ok"
    return "failed" if check.needed else "note"
