"""The `cai` command: the table of its commands, and the one place that turns errors into exits."""

from __future__ import annotations

import importlib
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import ray_serve_cai
from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Invocation
from ray_serve_cai.errors import BUG, FAILED, INTERRUPTED, USAGE, CaiError, StateError

# Name, and the module that holds a Typer `app` (a noun) or a function of that name (a verb).
COMMANDS = {
    "init": "ray_serve_cai.cli.init",
    "validate": "ray_serve_cai.cli.validate",
    "schema": "ray_serve_cai.cli.schema",
    "doctor": "ray_serve_cai.cli.doctor",
    "cluster": "ray_serve_cai.cli.cluster",
    "model": "ray_serve_cai.cli.model",
    "callbacks": "ray_serve_cai.cli.callbacks",
    "engines": "ray_serve_cai.cli.engines",
    "storage": "ray_serve_cai.cli.storage",
    "serve": "ray_serve_cai.cli.serve",
    "cloudera": "ray_serve_cai.cli.cloudera",
    "bench": "ray_serve_cai.cli.bench",
}

# Plain help: rich's markup doubles the time that `cai --help` takes.
app = typer.Typer(
    name="cai",
    help="Serve LLMs with vLLM on Ray Serve behind one OpenAI-compatible endpoint.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `cai` and end the process with its exit status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run `cai` with these words and return the exit status; errors are written, never raised."""
    words, command = _split_command(argv)
    call = Invocation(argv=argv, command=command, json="--json" in words)
    try:
        with _terminable():
            status = _invoke(words, call)
            sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError as error:
        status = _pipe_closed(error, call)
    except CaiError as error:
        status = _expected(error, call)
    except typer.TyperException as error:
        status = _usage(error, call)
    except OSError as error:
        # Every noun touches the state folder somewhere; what it meets there is no bug of ours.
        mine = _state_error(error)
        status = _expected(mine, call) if mine else _bug(error, call)
    except Exception as error:  # noqa: BLE001 - the boundary: what comes here is a bug of ours
        status = _bug(error, call)
    if status == INTERRUPTED:
        output.say("interrupted")
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cai {ray_serve_cai.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and leave.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more about what is being done.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything, and show tracebacks of all errors.")
    ] = False,
) -> None:
    call = context.find_object(Invocation)
    if call is not None:
        call.debug = debug
    if verbose or debug:
        _log_to_stderr(logging.DEBUG if debug else logging.INFO)


def _register() -> None:
    for name, path in COMMANDS.items():
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            continue
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, no_args_is_help=True)
        else:
            app.command(name)(getattr(module, name))


def _invoke(words: Sequence[str], call: Invocation) -> int:
    try:
        result = app(list(words), prog_name="cai", standalone_mode=False, obj=call)
    except typer.Abort as error:
        # Typer turns every EOFError into Abort, also one that no prompt has to do with.
        raise error.__cause__ or error from None
    except SystemExit as error:
        # Typer ends quietly on every EPIPE; only one of our own output is meant to be quiet.
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return result if isinstance(result, int) else 0


def _split_command(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Cut `cai serve SPEC… -- COMMAND` in two; elsewhere `--` only ends the options."""
    nouns = [word for word in argv if not word.startswith("-")]
    runs_command = nouns[:1] == ["serve"] or nouns[:3] == ["cloudera", "job", "create"]
    if not runs_command or "--" not in argv:
        return argv, ()
    cut = list(argv).index("--")
    return argv[:cut], argv[cut + 1 :]


def _expected(error: CaiError, call: Invocation) -> int:
    if call.debug:
        traceback.print_exception(error)
    output.fail(error, json=call.json)
    return error.exit


def _state_error(error: OSError) -> StateError | None:
    from ray_serve_cai.cluster.state import home

    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(home()):
        return None
    return StateError("CAI-STATE-001", f"{error.filename}: {error.strerror}")


def _usage(error: typer.TyperException, call: Invocation) -> int:
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not call.json:
        print(error.format_message(), file=sys.stderr)
        return USAGE
    path = context.command_path if context is not None else "cai"
    message = " ".join(error.format_message().split())
    hint = f"`{path} --help` shows what it takes."
    output.fail(CaiError("CAI-CLI-001", message, hint=hint), json=call.json)
    return USAGE


def _bug(error: BaseException, call: Invocation) -> int:
    from ray_serve_cai.cli import bug_log

    path = bug_log.write(error, call.argv)
    if call.debug or path is None:
        traceback.print_exception(error)
    summary = bug_log.scrub(f"{type(error).__name__}: {error}".splitlines()[0], os.environ)
    hint = f"Please report it with the log file {path}" if path else "Please report it."
    output.fail(CaiError("CAI-BUG-001", summary, hint=hint), json=call.json)
    return BUG


def _pipe_closed(error: BrokenPipeError, call: Invocation) -> int:
    if not _reader_gone():
        return _bug(error, call)
    # The interpreter flushes stdout once more on its way out.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    return FAILED


def _reader_gone() -> bool:
    watch = select.poll()
    for descriptor in (1, 2):
        watch.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command the way Ctrl-C does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(ray_serve_cai.__name__)
    logger.addHandler(handler)
    logger.setLevel(level)


_register()
