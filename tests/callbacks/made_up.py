"""Runners over classes that tests make up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks import (
    CallbackCtx,
    InitializeNodeOutput,
    LLMConfig,
    Point,
    Runner,
    initialize_node,
)
from ray_serve_cai.callbacks.build import CallbackSpec
from ray_serve_cai.callbacks.hooks import HOOKS
from ray_serve_cai.callbacks.runner import load


def runner(*kinds: type | str, timeout: float | None = 60.0, **options: Any) -> Runner:
    specs = [CallbackSpec(kind, on_error="fail", timeout=timeout) for kind in kinds]
    return Runner(load(specs), CallbackCtx(), model="m", node="n1", **options)


def logging_runner(*kinds: type, timeout: float | None = 60.0) -> Runner:
    specs = [CallbackSpec(kind, on_error="log", timeout=timeout) for kind in kinds]
    return Runner(load(specs), CallbackCtx(), model="m", node="n1")


def run(it: Runner, *points: Point, error: BaseException | None = None) -> list[bool]:
    async def main() -> list[bool]:
        return [await it.run(point, error) for point in points]

    return asyncio.run(main())


def one_hook(name: str, hook: Any, **more: Any) -> type:
    return type("Mine", (), {name: hook, **more})


def raising(error: BaseException) -> Callable[..., None]:
    def raise_it(self: object) -> None:
        raise error

    return raise_it


def recorder(tag: str, calls: list[str]) -> type:
    """A class with every hook; each notes that it ran."""

    def method(hook: str) -> Callable[[Any], None]:
        return lambda self: calls.append(f"{tag}{hook}")

    return type("Recorder", (), {hook: method(hook) for hook in HOOKS})


async def coroutine(self: object, ctx: CallbackCtx) -> None:
    """A hook that leaves a trace once it has been awaited."""
    await asyncio.sleep(0)
    ctx.custom_data["ran"] = True


def initialize(callback: Any = None, source: str | Path = "builtin:demo") -> InitializeNodeOutput:
    config = LLMConfig("m", str(source), callback=callback)
    return asyncio.run(initialize_node(config))
