"""`cai callbacks run`: one hook on a made-up context, without its secrets in what is printed."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks import CallbackCtx, LLMConfig, Runner, runner
from ray_serve_cai.callbacks.build import resolve_class
from ray_serve_cai.callbacks.hooks import POINT_OF, ROWS, Point, hooks_of
from ray_serve_cai.cli import output
from ray_serve_cai.errors import CaiError, HookError, SpecError
from ray_serve_cai.spec import MASK, format_path, is_secret_name, scrub
from ray_serve_cai.spec.base import Fault
from ray_serve_cai.spec.interpolate import interpolate
from ray_serve_cai.spec.masking import find_secret_values
from ray_serve_cai.spec.trees import copy, leaves, put

MODEL = "demo"


def try_hook(path: str, hook: str, kwargs: dict[str, Any], source: Path) -> dict[str, Any]:
    """Run the hook, and return its result and the fields of the context that it changed.

    Raises `SpecError` when there is no such class or variable, `CaiError` (CAI-CLI-001) when the
    class has no such hook, and `HookError`, without secrets, when the hook fails.
    """
    kind = resolve_class(path)
    if hook not in hooks_of(kind):
        has = ", ".join(hooks_of(kind)) or "no hook at all"
        message = f"{kind.__name__} does not define {hook}; it defines {has}"
        raise CaiError("CAI-CLI-001", message)
    kwargs, used = _filled(kwargs)
    config = LLMConfig(MODEL, str(source), callback_class=path, callback_kwargs=kwargs)
    ctx = CallbackCtx(llm_config=config)
    secrets = _secrets(kwargs, used)
    before = _fields(ctx, secrets)
    with _without_secrets(secrets):
        returned = asyncio.run(_run(config, ctx, hook))
    after = _fields(ctx, secrets)
    return {
        "path": path,
        "hook": hook,
        "returned": _plain(returned, secrets),
        "skips": _skips(hook) if returned is False else None,
        "changed": [
            {"field": name, "before": before[name], "after": after[name]}
            for name in before
            if before[name] != after[name]
        ],
    }


async def _run(config: LLMConfig, ctx: CallbackCtx, hook: str) -> Any:
    (callback,) = config.loaded()
    node = socket.gethostname()
    error = RuntimeError("made up for this run") if POINT_OF[hook] is Point.FAILED else None
    return await Runner([callback], ctx, model=MODEL, node=node).run_hook(callback, hook, error)


@contextmanager
def _without_secrets(secrets: frozenset[str]) -> Iterator[None]:
    # The runner logs the whole traceback, as it was.
    was, runner.log.disabled = runner.log.disabled, True
    try:
        yield
    except HookError as error:
        lines = traceback.format_exception(error.__cause__ or error)
        output.say(scrub("".join(lines).rstrip(), secrets))
        hint = "Mend the callback; the traceback stands above."
        raise HookError(error.code, scrub(error.message, secrets), hint=hint) from None
    finally:
        runner.log.disabled = was


def _filled(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments with their `${VAR}` filled in, and the variables that they use."""
    tree = copy(kwargs)
    used: dict[str, str] = {}
    for path, text in leaves(kwargs):
        if isinstance(text, str):
            try:
                put(tree, path, interpolate(text, os.environ, used))
            except Fault as fault:
                message = f"--kwargs: {format_path(path)}: {fault}"
                raise SpecError(fault.code, message) from None
    return tree, used


def _secrets(kwargs: Mapping[str, Any], variables: dict[str, str]) -> frozenset[str]:
    paths = [
        path
        for path, _ in leaves(kwargs)
        if any(isinstance(part, str) and is_secret_name(part) for part in path)
    ]
    return find_secret_values(kwargs, paths, variables)


def _skips(hook: str) -> str | None:
    return dict(ROWS[POINT_OF[hook]].false_skips).get(hook)


def _fields(ctx: CallbackCtx, secrets: frozenset[str]) -> dict[str, Any]:
    names = [it.name for it in fields(ctx) if it.name != "llm_config"]
    return {name: _plain(getattr(ctx, name), secrets) for name in names}


def _plain(value: Any, secrets: frozenset[str]) -> Any:
    """The value as JSON data without secrets; what JSON has no word for as its `repr`."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {it.name: getattr(value, it.name) for it in fields(value)}
    if isinstance(value, Mapping):
        return {
            str(key): MASK if is_secret_name(str(key)) and each else _plain(each, secrets)
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(each, secrets) for each in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return scrub(value if isinstance(value, str) else repr(value), secrets)
