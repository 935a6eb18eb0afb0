"""Preparing a node for its engine: the hooks around the download, and the download itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.build import is_of_family
from ray_serve_cai.callbacks.config import LLMConfig
from ray_serve_cai.callbacks.context import (
    CallbackCtx,
    DownloadMode,
    DownloadResult,
    NodeDownload,
    download_mode,
)
from ray_serve_cai.callbacks.hooks import Point
from ray_serve_cai.callbacks.runner import Runner
from ray_serve_cai.storage.source import WEIGHTS, fetch
from ray_serve_cai.storage.watch import Watch

# Brings the model here as far as the mode says; None for nothing.
Download = Callable[[DownloadMode], Path | None]
Elsewhere = Callable[[CallbackCtx], Awaitable[Mapping[str, NodeDownload]]]

_EXCLUDED = {
    DownloadMode.TOKENIZER_ONLY: (*WEIGHTS, "*.pth", "*.msgpack", "*.h5", "*.onnx"),
    DownloadMode.EXCLUDE_SAFETENSORS: ("*.safetensors",),
    DownloadMode.MODEL_AND_TOKENIZER: (),
}


@dataclass(frozen=True)
class InitializeNodeOutput:
    """What the hooks and the default steps arrived at."""

    placement_group: Any
    runtime_env: dict[str, Any] | None
    extra_init_kwargs: dict[str, Any]
    download_result: Any
    custom_data: dict[str, Any]


async def initialize_node(llm_config: LLMConfig) -> InitializeNodeOutput:
    """Run the points of a replica's start in this process, without Ray and without an engine.

    A source that is a local folder needs no download. Raises `HookError` and `StorageError`, after
    `on_failure` and `on_shutdown`.
    """
    node = socket.gethostname()
    ctx = CallbackCtx(llm_config=llm_config)
    for each in llm_config.loaded():
        each.broken = False
        if is_of_family(type(each.instance)):
            each.instance.ctx = ctx
    runner = Runner(llm_config.loaded(), ctx, model=str(llm_config.model_id), node=node)
    try:
        await _initialize(runner, llm_config, node)
    except (Exception, asyncio.CancelledError) as error:
        await runner.run(Point.FAILED, error)
        await runner.run(Point.SHUT_DOWN)
        raise
    return InitializeNodeOutput(
        ctx.placement_group,
        ctx.runtime_env,
        ctx.extra_init_kwargs,
        ctx.download_result,
        ctx.custom_data,
    )


async def prepare(
    runner: Runner, download: Download, node: str, elsewhere: Elsewhere | None = None
) -> None:
    """From "before anything" to "after download"; `ctx.download_result` has what came of it.

    `elsewhere` does the same for the other nodes of the replica and returns their results.
    """
    ctx = runner.ctx
    go_on = await runner.run(Point.BEFORE_ANYTHING)
    await runner.run(Point.AFTER_PLACEMENT)
    if not go_on:
        return
    if await runner.run(Point.BEFORE_DOWNLOAD):
        mode = ctx.local_node_download_model
        others = asyncio.ensure_future(elsewhere(ctx) if elsewhere else _nowhere())
        try:
            here = await prepare_files(runner, download, mode)
            there = await others
        finally:
            others.cancel()
        if ctx.download_result is None:
            ctx.download_result = DownloadResult(here.folder, {node: here, **there})
    await runner.run(Point.AFTER_DOWNLOAD)


async def prepare_files(runner: Runner, download: Download, mode: str | None) -> NodeDownload:
    """One node's part: its hook, then the default download unless a hook turned it off."""
    await runner.run(Point.ON_EACH_NODE)
    ctx = runner.ctx
    folder = None
    if ctx.run_init_node:
        folder = await asyncio.to_thread(download, download_mode(mode))
    return NodeDownload(str(folder) if folder else None, dict(ctx.custom_data))


def download_of(
    source: str, options: Mapping[str, Any] | None = None, watch: Watch | None = None
) -> Download:
    """The default download of `source`, from a store with `options`; raises `StorageError`."""

    def download(mode: DownloadMode) -> Path | None:
        local = Path(source).expanduser()
        if local.is_dir():
            return local
        if mode is DownloadMode.NONE:
            return None
        return fetch(source, _EXCLUDED[mode], options=options, watch=watch)

    return download


def folder_of(ctx: CallbackCtx) -> Path | None:
    """The folder that hooks or the download found for the engine."""
    found = ctx.download_result
    if isinstance(found, DownloadResult):
        found = found.folder
    return Path(found) if isinstance(found, (str, Path)) else None


async def _initialize(runner: Runner, llm_config: LLMConfig, node: str) -> None:
    ctx = runner.ctx
    go_on = await runner.run(Point.BEFORE_PLACEMENT)
    if go_on and ctx.placement_group is None:
        ctx.placement_group = llm_config.placement()
    download = download_of(str(llm_config.model_source), llm_config.storage_options)
    await prepare(runner, download, node)
    for point in (Point.BEFORE_ENGINE, Point.AFTER_ENGINE, Point.ALL_DONE):
        await runner.run(point)


async def _nowhere() -> Mapping[str, NodeDownload]:
    return {}
