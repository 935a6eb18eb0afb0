"""SGLang's arguments: which there are, and how `engine.args` becomes SGLang's own command line.

Nothing here imports SGLang: that takes seconds, and a plan must work where it is not installed.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ray_serve_cai.engines.config import (
    ConfigBuilder,
    ParallelDeploymentFactory,
    engine_args,
)
from ray_serve_cai.errors import PlanError

# Set by the replica, so a spec may not.
RESERVED = frozenset(
    {"model", "model_path", "served_model_name", "host", "port", "api_key", "admin_api_key"}
    | {"grpc_mode", "smg_grpc_mode", "grpc_port", "smg_http_sidecar_port", "config"}
    | {"tokenizer_worker_num", "node_rank", "nnodes", "dist_init_addr"}
)
# Whose parsers and templates sit in SGLang's HTTP server; over gRPC the gateway has its own.
FRONT_ONLY = ("reasoning_parser", "tool_call_parser", "chat_template", "completion_template")
# Where SGLang declares its options: one file up to 0.5.10, a file for each topic since.
_SOURCES = ("srt/server_args.py", "srt/arg_groups/fields/*.py")
_OPTION = re.compile(r"--[a-z][a-z0-9-]*")


class SGLangConfigBuilder(ConfigBuilder):
    """Configurations whose arguments are those of `sglang.launch_server`."""

    def __init__(self, engine: str = "sglang") -> None:
        super().__init__(engine)

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise `PlanError` (CAI-PLAN-002) for an argument that the installed SGLang does not
        have, `SpecError` (CAI-SPEC-004) when there is no model."""
        super().validate_config(config)
        check_args(engine_args(config))


class SGLangDeploymentFactory(ParallelDeploymentFactory):
    """SGLang's replicas, with a GPU for each of their ranks."""

    sizes = (
        ("tp_size", "tensor_parallel_size", "tp"),
        ("pp_size", "pipeline_parallel_size", "pp"),
        ("dp_size", "data_parallel_size", "dp"),
    )

    def __init__(self, engine: str = "sglang") -> None:
        super().__init__(engine)

    def width(self, engine_config: Mapping[str, Any]) -> int:
        """GPUs of one replica: with data-parallel attention the ranks of `dp_size` are among
        those of `tp_size`."""
        args = {name.replace("-", "_"): value for name, value in engine_config.items()}
        if args.get("enable_dp_attention") or args.get("attn_dp_size"):
            for name in self.sizes[2]:
                args.pop(name, None)
        return super().width(args)


def check_args(args: Mapping[str, Any]) -> None:
    """Refuse names that the installed SGLang does not accept; without SGLang, only reserved ones.

    Raises `PlanError` (CAI-PLAN-002) with the near match.
    """
    known = known_args()
    for name in args:
        plain = name.replace("-", "_")
        if plain in RESERVED:
            raise PlanError("CAI-PLAN-002", f"engine.args.{name}: set by cai, not in the spec")
        if known and plain not in known:
            near = difflib.get_close_matches(plain, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise PlanError(
                "CAI-PLAN-002", f"engine.args.{name}: SGLang has no such argument{hint}"
            )


def choose_transport(
    wanted: Literal["auto", "grpc", "http"], args: Mapping[str, Any]
) -> dict[Literal["grpc", "http"], str]:
    """The transport and why it is chosen."""
    if wanted != "auto":
        return {wanted: "the spec says so"}
    for name in args:
        if name.replace("-", "_") in FRONT_ONLY:
            return {"http": f"engine.args.{name} belongs to SGLang's own HTTP server"}
    if find_spec("sglang") is not None and find_spec("smg_grpc_servicer") is None:
        return {"http": "smg-grpc-servicer is not installed"}
    return {"grpc": "fastest: templates, tokenization and streaming run in the gateway"}


def servicer(env: Mapping[str, str]) -> str:
    """Which gRPC front a model with these variables gets: `python`, or `rust` where it asks."""
    return env.get("SMG_SGLANG_SERVICER_IMPL", "python")


def command_line(args: Mapping[str, Any]) -> list[str]:
    """`{"tp_size": 2, "enable_metrics": True}` as SGLang's parser takes it.

    False is an option left out, or its `--no-` form where SGLang has one.
    """
    line: list[str] = []
    for name, value in args.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if value is True:
            line.append(flag)
        elif value is False:
            negative = f"no_{name.replace('-', '_')}"
            line += ["--" + negative.replace("_", "-")] if negative in known_args() else []
        elif isinstance(value, list):
            line += [flag, *map(_word, value)]
        else:
            line.append(f"{flag}={_word(value)}")
    return line


@cache
def known_args() -> frozenset[str]:
    """Names of the installed SGLang's options, those that turn one off (`no_…`) included; empty
    when it is not installed. Read from its source."""
    spec = find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    root = Path(spec.submodule_search_locations[0])
    return frozenset(
        name
        for pattern in _SOURCES
        for path in sorted(root.glob(pattern))
        for name in _options(path.read_text(encoding="utf-8"))
    )


def _options(source: str) -> Iterator[str]:
    """Fields of the argument classes, and options that are spelled out in calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield from _fields(node)
        elif isinstance(node, ast.Constant) and _OPTION.fullmatch(str(node.value)):
            yield str(node.value)[2:].replace("-", "_")


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        name, words = statement.target.id, ast.unparse(statement.annotation)
        if not (node.name == "ServerArgs" or words.startswith("A[")) or name.startswith("_"):
            continue
        # An option under another name is found by that.
        if not any(mark in words for mark in ("no_cli=True", "cli_name=", "ClassVar")):
            yield name
        if "BooleanOptionalAction" in words:
            yield f"no_{name}"


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
