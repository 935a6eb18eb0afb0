"""vLLM's arguments: which there are, and how `engine.args` becomes vLLM's own command line.

Nothing here imports vLLM: a plan must be quick, and must work where vLLM is not installed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_serve_cai.errors import PlanError

# Set by the replica, so a spec may not.
RESERVED = frozenset({"model", "served_model_name", "host", "port", "api_key", "grpc", "headless"})
_ENGINE_SOURCE = ("engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
_FRONT_SOURCE = ("entrypoints/launchers/cli_args.py", "BaseFrontendArgs", "FrontendArgs")


def check_args(args: Mapping[str, Any], *, transport: str) -> None:
    """Refuse names that the installed vLLM does not accept; without vLLM, only reserved ones.

    Raises `PlanError` (CAI-PLAN-002) with the near match.
    """
    for name in args:
        if name.replace("-", "_") in RESERVED:
            raise PlanError("CAI-PLAN-002", f"engine.args.{name}: set by cai, not in the spec")
    known = known_args(transport)
    for name in args if known else ():
        if name.replace("-", "_") not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise PlanError("CAI-PLAN-002", f"engine.args.{name}: vLLM has no such argument{hint}")


@cache
def known_args(transport: str) -> frozenset[str]:
    """Names of the installed vLLM's engine arguments, with its HTTP server's for `http`.

    Empty when vLLM is not installed. Read from the source's dataclasses: importing vLLM takes
    seconds.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    root = Path(spec.submodule_search_locations[0])
    names = _fields(root, *_ENGINE_SOURCE)
    return names | _fields(root, *_FRONT_SOURCE) if transport == "http" else names


def front_args() -> frozenset[str]:
    """Names of the arguments that only vLLM's HTTP server has."""
    return known_args("http") - known_args("grpc")


def command_line(args: Mapping[str, Any]) -> list[str]:
    """`{"max_model_len": 1024, "enforce_eager": True}` as vLLM's parser takes it."""
    line: list[str] = []
    for name, value in args.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if value is True:
            line.append(flag)
        elif value is False:
            line.append("--no-" + flag[2:])
        elif _is_plain(value):
            line += [flag, *(str(item) for item in value)]
        else:
            text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
            line.append(f"{flag}={text}")
    return line


def parsed(parser: argparse.ArgumentParser, args: Mapping[str, Any]) -> argparse.Namespace:
    """`args` through vLLM's own parser, so that they are read and checked as vLLM reads them.

    A field without a flag is set as it is; false for a flag that has no `--no-` form is its
    default, and left out; a list for a flag that takes one word is joined by commas, one of
    objects for a flag that takes several becomes a word of JSON for each.
    """
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    line: dict[str, Any] = {}
    set_as_is: dict[str, Any] = {}
    for name, value in args.items():
        flag = name.replace("_", "-")
        if f"--{flag}" not in flags and name.replace("-", "_") in known_args("grpc"):
            set_as_is[name.replace("-", "_")] = value
        elif value is not False or f"--no-{flag}" in flags:
            line[name] = _for_flag(flags.get(f"--{flag}"), value)
    found = parser.parse_args(command_line(line))
    for name, value in set_as_is.items():
        setattr(found, name, value)
    return found


def _for_flag(action: argparse.Action | None, value: Any) -> Any:
    if action is None or not isinstance(value, list):
        return value
    if action.nargs is None:
        return ",".join(map(str, value)) if _is_plain(value) else value
    return [json.dumps(item) if isinstance(item, (dict, list)) else item for item in value]


def _is_plain(value: Any) -> bool:
    """Whether it is a list of words and numbers."""
    return isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)


def _fields(root: Path, source: str, *classes: str) -> frozenset[str]:
    path = root / source
    if not path.is_file():
        return frozenset()
    return frozenset(
        statement.target.id
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        # The others are vLLM's own affair.
        if not statement.target.id.startswith("_")
    )
