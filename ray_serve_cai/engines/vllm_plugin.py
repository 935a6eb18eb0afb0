"""Loaded by vLLM in each of its processes (entry point group `vllm.general_plugins`)."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, cast

from ray_serve_cai import dotted

CALLS = "CAI_VLLM_CALLS"
# Of the Ray placement group that the replica holds, as hexadecimal digits.
GROUP = "CAI_PLACEMENT_GROUP"
GUARDED = "_guarded_by_cai"
_FOLDERS = ("TMPDIR", "VLLM_RPC_BASE_PATH", "SMG_ZMQ_SOCKET_DIR", "CAI_WORKSPACE", GROUP)

log = logging.getLogger(__name__)


class WrongRequest(ValueError):
    """A request that the engine core cannot answer."""


def load() -> None:
    """What each process of vLLM needs before anything else: the AMX tiles, an engine core that
    outlives wrong requests, the replica's placement group, and the calls that callbacks asked for.
    A call that fails ends the process, and with it the engine's start."""
    _ask_for_amx()
    _guard_core()
    if group := os.environ.get(GROUP):
        _place_workers(group)
        _keep_folders_here()
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


def _guard_core() -> None:
    """Have the engine core refuse a prompt that would end it, and a grammar that is none, where
    this process is one.

    vLLM's own front checks both before they reach the core; SMG's Rust servicer hands on an
    empty prompt, over which the scheduler fails, and the core with it (seen with vLLM 0.31 and
    smg 1.13). That request alone ends, with the finish reason `abort`.
    """
    module = sys.modules.get("vllm.v1.engine.core")
    if module is None or hasattr(module.EngineCoreProc.preprocess_add_request, GUARDED):
        return
    core_class = module.EngineCoreProc
    take, fail = core_class.preprocess_add_request, core_class._handle_request_preproc_error

    def checked(core: Any, request: Any) -> Any:
        fault = wrong_prompt(request, core.vllm_config.model_config) or wrong_grammar(request)
        if fault:
            raise WrongRequest(fault)
        return take(core, request)

    def answered(core: Any, request: Any) -> None:
        # Aborted rather than failed: the gateway would send a failed one four times more, and
        # take the replica for broken after ten failures in a row.
        if isinstance(fault := sys.exception(), WrongRequest):
            log.warning("request %s: %s", request.request_id, fault)
            core._send_abort_outputs_to_client([request.request_id], request.client_index)
        else:
            fail(core, request)

    setattr(checked, GUARDED, True)
    core_class.preprocess_add_request = checked
    core_class._handle_request_preproc_error = answered


def _place_workers(group: str) -> None:
    """Have vLLM's Ray workers take the bundles that the replica holds, where this process makes
    the configuration.

    vLLM looks for the group of the actor that it runs in; the engine host is none, and vLLM would
    make a group of its own beside the replica's (seen with vLLM 0.31).
    """
    module = sys.modules.get("vllm.engine.arg_utils")
    if module is None or hasattr(module.EngineArgs.create_engine_config, GUARDED):
        return
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    make = module.EngineArgs.create_engine_config

    @functools.wraps(make)
    def placed(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = make(self, *args, **kwargs)
        config.parallel_config.placement_group = PlacementGroup(
            PlacementGroupID(bytes.fromhex(group))
        )
        return config

    setattr(placed, GUARDED, True)
    module.EngineArgs.create_engine_config = placed


def _keep_folders_here() -> None:
    """Leave out what vLLM would give its Ray workers of this process's environment, though on
    their nodes there are no such folders."""
    from vllm.ray.ray_env import RAY_NON_CARRY_OVER_ENV_VARS

    RAY_NON_CARRY_OVER_ENV_VARS.update(_FOLDERS)


def wrong_prompt(request: Any, model: Any) -> str | None:
    """What is wrong with an `EngineCoreRequest` for a model of this `ModelConfig`."""
    tokens = request.prompt_token_ids
    if tokens is None or request.prompt_is_token_ids is not None:
        return None
    if not tokens:
        return "the prompt is empty"
    if len(tokens) > model.max_model_len:
        return f"the prompt has {len(tokens)} tokens; the context {model.max_model_len}"
    if request.mm_features:
        # Placeholders of images may lie outside the vocabulary.
        return None
    if min(tokens) < 0 or max(tokens) >= model.get_vocab_size():
        return f"a token is outside the vocabulary of {model.get_vocab_size()}"
    return None


def wrong_grammar(request: Any) -> str | None:
    """What is wrong with the JSON schema, regex or grammar of an `EngineCoreRequest`."""
    wanted = getattr(request.sampling_params, "structured_outputs", None)
    if wanted is None or wanted._backend != "xgrammar":
        return None
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    try:
        validate_xgrammar_grammar(request.sampling_params)
    except VLLMValidationError as error:
        # One without a cause is about a feature that xgrammar leaves out and goes on without.
        return str(error) if error.__cause__ else None
    return None
