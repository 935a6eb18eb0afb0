"""Loaded by vLLM in each of its processes (entry point group `vllm.general_plugins`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, cast

from ray_serve_cai import dotted

CALLS = "CAI_VLLM_CALLS"


def load() -> None:
    """What each process of vLLM needs before anything else: the AMX tiles, and the calls that
    callbacks asked for. A call that fails ends the process, and with it the engine's start."""
    _ask_for_amx()
    for call in json.loads(os.environ.get(CALLS) or "[]"):
        function = cast("Any", dotted.resolve(call["function"]))
        function(**call["kwargs"])


def add_call(
    runtime_env: Mapping[str, Any] | None, function: str, /, **kwargs: Any
) -> dict[str, Any]:
    """The runtime environment, such as a callback's `ctx.runtime_env`, with one call more: each
    process of vLLM calls the function that the dotted path names.

    For what must be registered: vLLM spawns its processes, so they see nothing of what another
    one has registered. `kwargs` are JSON data. A process may make the call twice.
    """
    env_vars = dict((runtime_env or {}).get("env_vars") or {})
    calls = json.loads(env_vars.get(CALLS) or "[]")
    calls.append({"function": function, "kwargs": kwargs})
    return {**(runtime_env or {}), "env_vars": {**env_vars, CALLS: json.dumps(calls)}}


def _ask_for_amx() -> None:
    """Ask the kernel for the AMX tiles before vLLM's CPU attention uses them.

    Linux grants tile data per process and only on request (arch_prctl, ARCH_REQ_XCOMP_PERM).
    vLLM's attention picks its AMX variant from the CPU's flags alone, so a spawned worker that
    meets a short prompt before any larger matrix product dies of SIGILL (seen with vLLM 0.31).
    """
    import torch

    if not torch.cuda.is_available() and torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
