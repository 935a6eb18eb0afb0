"""What the output module writes where. Terminal output is tried on a pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Duration
from ray_serve_cai.errors import CaiError

ROOT = Path(__file__).resolve().parent.parent.parent

ROWS = [
    {"name": "demo", "state": "ready", "replicas": {"ready": 1, "wanted": 2}, "gpu": None},
    {"name": "x" * 120, "state": "[bold]lost", "replicas": {"ready": 0, "wanted": 1}, "gpu": True},
]


def test_json_is_one_object_with_the_schema_first(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"models": ROWS}, json=True, text=lambda console: pytest.fail("not asked for"))
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["schema", "models"]
    assert json.loads(out)["schema"] == "cai/v1"
    assert err == ""


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        output.emit({"x": float("nan")}, json=True)


def test_table_shows_the_rows_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    def show(console: Console) -> None:
        columns: dict[str, output.Cell] = {
            "name": "name",
            "state": "state",
            "replicas": lambda row: f"{row['replicas']['ready']}/{row['replicas']['wanted']}",
            "gpu": "gpu",
        }
        console.print(output.table(ROWS, columns))

    output.emit({"models": ROWS}, json=False, text=show)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NAME", "STATE", "REPLICAS", "GPU"],
        ["demo", "ready", "1/2", "-"],
        ["x" * 120, "[bold]lost", "0/1", "yes"],
    ]


def test_actions(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"verb": "create", "kind": "node", "name": "demo-head", "detail": "2 CPUs"}
    output.emit({}, json=False, text=lambda console: console.print(output.actions_table([row])))
    output.emit({}, json=False, text=lambda console: console.print(output.actions_table([])))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["+", "create", "node", "demo-head", "2", "CPUs"],
        ["nothing", "to", "do"],
    ]


def test_talk_goes_to_stderr_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    message = "workers[0].cpu: :smile: [red]12[/red] " + "long " * 40
    output.say(message, style="red")
    assert capsys.readouterr() == ("", message + "\n")


def test_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.last_line("http://127.0.0.1:8000/v1")
    output.last_line("http://127.0.0.1:8000/v1", json=True)
    assert capsys.readouterr().out == "http://127.0.0.1:8000/v1\n"


def test_phases_are_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with output.phases("demo") as report:
        report("scheduling")
        report("downloading", "model.safetensors", done=0, total=5 * 1024**2)
        report("downloading", "model.safetensors", done=4 * 1024**2, total=5 * 1024**2)
        report("ready")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "demo: scheduling",
        "demo: downloading model.safetensors 5 MiB",
        "demo: ready",
    ]


def test_confirm_needs_a_terminal_or_yes() -> None:
    output.confirm("Delete demo?", yes=True)
    with pytest.raises(CaiError) as caught:
        output.confirm("Delete demo?", yes=False)
    assert (caught.value.code, caught.value.exit) == ("CAI-CLI-002", 2)


def test_declined(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "n\n", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(typer.Exit) as caught:
        output.confirm("Delete demo?", yes=False)
    assert caught.value.exit_code == 1
    assert "Delete demo? [y/N]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("90s", 90, "90s"),
        ("5m", 300, "5m"),
        ("1h30m", 5400, "90m"),
        ("45", 45, "45s"),
        ("2h", 7200, "2h"),
    ],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    assert Duration(text) == seconds
    assert str(Duration(text)) == shown


TERMINAL = """
from ray_serve_cai.cli import output
with output.phases("demo") as report:
    report("downloading", "a[0]", done=1024, total=2048)
    output.say("a word between")
output.confirm("Delete demo?", yes=False)
output.say("agreed")
"""


def test_on_a_terminal() -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "100"},
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    seen = ""
    while "[y/N]" not in seen:
        seen += os.read(main, 4096).decode()
    os.write(main, b"y\n")
    while "agreed" not in seen:
        seen += os.read(main, 4096).decode()
    assert process.wait(timeout=30) == 0
    os.close(main)
    assert "demo: downloading a[0] 1 KiB of 2 KiB" in seen
    assert "a word between" in seen
