"""The boundary of the command line: what each kind of failure prints, and the exit status.

The commands that fail here are put into the real app for one test; the last section runs `cai` as
a process, for what only a process shows (signals, pipes, the interpreter's own exit).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from ray_serve_cai.cli import bug_log
from ray_serve_cai.cli.app import COMMANDS, app, run
from ray_serve_cai.cli.options import Duration, Json, Timeout, invocation
from ray_serve_cai.errors import CaiError, ClusterError, Problem, SpecProblems

ROOT = Path(__file__).resolve().parent.parent.parent

TEN_MINUTES = Duration(600)

Add = Callable[[Callable[..., object]], None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def add() -> Iterator[Add]:
    """Puts a function into the app as `cai trial`."""
    before = list(app.registered_commands)

    def put(function: Callable[..., object]) -> None:
        app.command("trial")(function)

    yield put
    app.registered_commands[:] = before


def failing(error: BaseException) -> Callable[..., None]:
    def trial(token: str = "", json: Json = False) -> None:
        raise error

    return trial


class TestExpectedErrors:
    def test_red_line_and_hint(self, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        add(failing(ClusterError("CAI-CLUSTER-001", "no cluster [demo] 3")))
        assert run(["trial"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == [
            "error CAI-CLUSTER-001: no cluster [demo] 3",
            "hint: `cai cluster list` shows the names; `cai cluster up SPEC` makes one.",
        ]

    def test_json_object_on_stdout(self, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        add(failing(CaiError("CAI-CLUSTER-006", "late", hint="wait")))
        assert run(["trial", "--json"]) == 4
        out, err = capsys.readouterr()
        assert json.loads(out) == {
            "schema": "cai/v1",
            "error": {"code": "CAI-CLUSTER-006", "message": "late", "hint": "wait"},
        }
        assert err == ""

    def test_all_problems_of_a_file(self, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        problems = [
            Problem(
                "a.yaml",
                7,
                5,
                "workers[0].cpus",
                "CAI-SPEC-003",
                'unknown key; did you mean "cpu"?',
            ),
            Problem("a.yaml", 9, 1, "", "CAI-SPEC-004", "needs a name"),
        ]
        add(failing(SpecProblems(problems)))
        assert run(["trial"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].endswith('a.yaml:7:5: workers[0].cpus: unknown key; did you mean "cpu"?')
        assert lines[1] == "a.yaml:9:1: needs a name"

    def test_debug_shows_the_traceback(self, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        add(failing(CaiError("CAI-CLUSTER-003", "held")))
        assert run(["--debug", "trial"]) == 1
        assert "Traceback (most recent call last)" in capsys.readouterr().err
        assert run(["trial"]) == 1
        assert "Traceback" not in capsys.readouterr().err


class TestUsage:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["trail"], "No such command 'trail'."),
            (["doctor", "--jsn"], "No such option: --jsn"),
            (["doctor", "extra"], "Got unexpected extra argument(s) 'extra'."),
            (["engines", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        ],
    )
    def test_is_exit_2(
        self, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error CAI-CLI-001: ")
        assert message.split()[0] in err
        assert "--help` shows what it takes." in err

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["doctor", "--json", "--nonsense"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "CAI-CLI-001"
        assert error["hint"] == "`cai doctor --help` shows what it takes."

    def test_no_arguments_print_the_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("Usage: cai [OPTIONS] COMMAND")

    @pytest.mark.parametrize("text", ["5x", "-3s", "soon"])
    def test_bad_duration(self, text: str, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        def trial(timeout: Timeout = TEN_MINUTES) -> None:
            raise AssertionError

        add(trial)
        assert run(["trial", f"--timeout={text}"]) == 2
        assert "must be a duration such as 30s" in capsys.readouterr().err


class TestBugs:
    def test_short_line_and_log(
        self, add: Add, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        add(failing(RuntimeError("a surprise\nwith a second line")))
        assert run(["trial", "--token", "abcdef"]) == 3
        err = capsys.readouterr().err.splitlines()
        assert err[0] == "error CAI-BUG-001: RuntimeError: a surprise"
        (log,) = (home / "logs").iterdir()
        assert str(log) in err[1]
        text = log.read_text()
        assert "command: cai trial --token ***" in text
        assert "Traceback (most recent call last)" in text
        assert "python: 3." in text
        assert "abcdef" not in text.split("Traceback")[0]
        assert stat.S_IMODE(log.stat().st_mode) == 0o600

    def test_json(self, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
        add(failing(KeyError("x")))
        assert run(["trial", "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "CAI-BUG-001"

    def test_unwritable_state_folder_goes_to_the_temporary_one(
        self, add: Add, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home.write_text("a file where the folder should be")
        add(failing(RuntimeError("a surprise")))
        assert run(["trial"]) == 3
        log = Path(capsys.readouterr().err.split("log file ")[1].strip())
        assert log.exists()
        log.unlink()

    @pytest.mark.parametrize(
        "error", [EOFError("pickle ended"), BrokenPipeError(errno.EPIPE, "a socket of ours")]
    )
    def test_what_typer_would_hide(
        self, error: Exception, add: Add, capsys: pytest.CaptureFixture[str]
    ) -> None:
        add(failing(error))
        assert run(["trial"]) == 3
        assert type(error).__name__ in capsys.readouterr().err

    def test_secrets_of_the_environment_are_masked(
        self,
        add: Add,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_123456")
        add(failing(RuntimeError("refused hf_123456")))
        assert run(["trial"]) == 3
        (log,) = (home / "logs").iterdir()
        assert "hf_123456" not in capsys.readouterr().err + log.read_text()


def test_argv_masking() -> None:
    argv = [
        "up",
        "--api-key",
        "a",
        "--token=b",
        "--set",
        "env.HF_TOKEN=c",
        "--json",
        "--key",
        "-y",
    ]
    masked = ["up", "--api-key", "***", "--token=***", "--set", "env.HF_TOKEN=***", "--json"]
    assert bug_log.mask_argv(argv) == [*masked, "--key", "-y"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cai 0.")


def test_a_number_that_a_command_returns_is_the_status(add: Add) -> None:
    def trial() -> int:
        return 7

    add(trial)
    assert run(["trial"]) == 7


def test_exit_and_interrupt(add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    add(failing(typer.Exit(4)))
    assert run(["trial"]) == 4
    add(failing(KeyboardInterrupt()))
    assert run(["trial"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_command_after_dashes(add: Add) -> None:
    seen: list[object] = []

    def serve(context: typer.Context, specs: list[str]) -> None:
        seen.extend([specs, list(invocation(context).command)])

    before = list(app.registered_commands)
    app.registered_commands[:] = [each for each in before if each.name != "serve"]
    app.command("serve")(serve)
    try:
        assert run(["serve", "a.yaml", "--", "python", "-c", "pass", "--", "--json"]) == 0
    finally:
        app.registered_commands[:] = before
    assert seen == [["a.yaml"], ["python", "-c", "pass", "--", "--json"]]


def test_dashes_elsewhere_only_end_the_options(add: Add) -> None:
    seen: list[str] = []

    def trial(word: str) -> None:
        seen.append(word)

    add(trial)
    assert run(["trial", "--", "--strange"]) == 0
    assert seen == ["--strange"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: cai {name}")


# -- as a process ---------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from ray_serve_cai.cli.app import app, main

@app.command()
def trial() -> None:
    try:
        print("begun", flush=True)
        {body}
    finally:
        print("cleaned up", file=sys.stderr)

main()
"""


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), "trial"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_130_and_clean_up(number: signal.Signals) -> None:
    process = start("time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "cleaned up\ninterrupted\n"


def test_closed_pipe_is_quiet() -> None:
    process = start("[print('x' * 1000) for _ in range(10_000)]")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == "cleaned up\n"
    process.stderr.close()


def test_closed_pipe_at_the_last_flush_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ray_serve_cai", "--version"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


def test_state_folder_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    home = Path(os.environ["CAI_HOME"])
    home.mkdir(parents=True)
    (home / "clusters").write_text("not a folder")
    assert run(["cluster", "list"]) == 1
    said = capsys.readouterr().err
    assert "CAI-STATE-001" in said
    assert str(home / "clusters") in said
