"""docs/cli.md, from the Typer app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from generators.markdown import NOTE, anchor, exit_table, page, table
from ray_serve_cai.cli.app import app


def cli_page() -> str:
    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "Results go to stdout and everything else to stderr. With `--json` stdout holds exactly",
        'one JSON object with `"schema": "cai/v1"`; when the command fails it is',
        '`{"schema": "cai/v1", "error": {"code", "message", "hint"}}`. The codes are those of',
        "[errors.md](errors.md).",
        "",
        *exit_table(),
        "",
    ]
    for path, command in walk("cai", root):
        lines += command_section(path, command)
    return page(lines)


def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from walk(f"{path} {name}", child)


def command_section(path: str, command: Any) -> list[str]:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = [path, "[OPTIONS]" if options else "", *map(argument_usage, arguments)]
    if hasattr(command, "commands"):
        usage.append("COMMAND")
    lines = [f"## {path}", "", "```text", " ".join(filter(None, usage)), "```", ""]
    if command.help:
        lines += [command.help.partition("\f")[0].strip(), ""]
    children = getattr(command, "commands", {})
    if children:
        rows = [
            (f"[`{path} {name}`](#{anchor(f'{path} {name}')})", summary(child))
            for name, child in children.items()
        ]
        lines += [*table(("command", "purpose"), rows), ""]
    if arguments:
        rows = [(f"`{argument_usage(param)}`", param.help or "") for param in arguments]
        lines += [*table(("argument", "meaning"), rows), ""]
    if options:
        rows = [option_row(param) for param in options if not param.hidden]
        lines += [*table(("option", "meaning"), rows), ""]
    return lines


def argument_usage(param: Any) -> str:
    if param.metavar:
        return str(param.metavar)
    word = "|".join(choices(param)) or param.name.upper()
    word = f"{word}..." if param.nargs == -1 else word
    return word if param.required else f"[{word}]"


def choices(param: Any) -> list[str]:
    return [str(choice) for choice in param.type_descriptor.choices or ()]


def option_row(param: Any) -> tuple[str, str]:
    names = "`, `".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag else f" {option_value(param)}"
    notes = [param.help or ""]
    if not param.is_flag and param.default not in (None, (), [], ""):
        notes.append(f"Default: `{param.default}`.")
    if param.required:
        notes.append("Needed.")
    if param.envvar:
        notes.append(f"Environment: `{param.envvar}`.")
    return f"`{names}{value}`", " ".join(filter(None, notes))


def option_value(param: Any) -> str:
    return str(param.metavar or "|".join(choices(param)) or param.name.strip("_").upper())


def summary(command: Any) -> str:
    first = (command.short_help or command.help or "").strip().split("\n\n")[0]
    return " ".join(first.split())
