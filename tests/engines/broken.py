"""Engines that break one rule of the contract each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ray_serve_cai.engines.base import (
    EngineConfig,
    FinishReason,
    GenerateContext,
    LLMEngineOutput,
    PreprocessedRequest,
    chunk,
)
from ray_serve_cai.engines.echo import EchoEngine

Stream = AsyncIterator[LLMEngineOutput]


class Base(EchoEngine):
    @classmethod
    def make(cls) -> EchoEngine:
        return cls.from_args({"tokens_per_second": 500}, Path("/models/echo"))

    @classmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> EchoEngine:
        return cls(args, model_path)


class StartWithoutId(Base):
    async def start(self) -> EngineConfig:  # type: ignore[override]
        return await super().start(0)


class SyncCleanup(Base):
    def cleanup(self) -> None:  # type: ignore[override]
        pass


class UnknownOption(Base):
    options = frozenset({"top_q"})


class NotNullSafe(Base):
    async def start(self, worker_id: int) -> EngineConfig:
        self.held = object()
        return await super().start(worker_id)

    async def cleanup(self) -> None:
        assert self.held


class DoesNotStart(Base):
    async def start(self, worker_id: int) -> EngineConfig:
        raise RuntimeError("no")


class Nameless(Base):
    async def start(self, worker_id: int) -> EngineConfig:
        return EngineConfig(model="")


class Failing(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        yield LLMEngineOutput.error("out of everything")


class Raising(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        raise RuntimeError("no")
        yield


class Wordy(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        yield "hello"  # type: ignore[misc]


class Silent(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        yield LLMEngineOutput.stop()


class GoesOn(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        async for item in super().generate(request, ctx):
            yield item
        yield chunk.token(1)


class Endless(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        async for item in super().generate(request, ctx):
            if item.finish_reason is None:
                yield item


class OneAtATime(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        if self._places.running:
            raise RuntimeError("busy")
        async for item in super().generate(request, ctx):
            yield item


class Shared(Base):
    """Keeps the request on the engine."""

    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        self.request = request
        await asyncio.sleep(0.01)
        async for item in super().generate(self.request, ctx):
            yield item


class Deaf(Base):
    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        endless = request.max_tokens is None
        while endless:
            yield chunk.token(1)
            await asyncio.sleep(0.01)
        async for item in super().generate(request, ctx):
            yield item


class Stubborn(Base):
    """Ends when cancelled, and calls it a stop."""

    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        async for item in super().generate(request, ctx):
            cancelled = item.finish_reason is FinishReason.CANCELLED
            yield LLMEngineOutput.stop() if cancelled else item


class Quits(Base):
    """Ends when cancelled, without a word."""

    async def generate(self, request: PreprocessedRequest, ctx: GenerateContext) -> Stream:
        async for item in super().generate(request, ctx):
            if ctx.is_stopped():
                return
            yield item


class DirtyOnce(Base):
    started = False

    async def start(self, worker_id: int) -> EngineConfig:
        self.started = True
        return await super().start(worker_id)

    async def cleanup(self) -> None:
        if self.started:
            self.started = False
            raise RuntimeError("it is stuck")


class OnlyOnce(Base):
    cleaned = False

    async def cleanup(self) -> None:
        if self.cleaned:
            raise RuntimeError("double free")
        self.cleaned = True


class LeavesATask(Base):
    async def start(self, worker_id: int) -> EngineConfig:
        self.task = asyncio.create_task(asyncio.sleep(60), name="left behind")
        return await super().start(worker_id)


class LeavesAThread(Base):
    ends: threading.Event | None = None

    async def start(self, worker_id: int) -> EngineConfig:
        type(self).ends = ends = threading.Event()
        threading.Thread(target=ends.wait, name="left behind", daemon=True).start()
        return await super().start(worker_id)


BROKEN: list[tuple[str, type[Base]]] = [
    ("signature-drift", StartWithoutId),
    ("signature-drift", SyncCleanup),
    ("signature-drift", UnknownOption),
    ("cleanup-without-start", NotNullSafe),
    ("start-failed", DoesNotStart),
    ("empty-model", Nameless),
    ("generate-failed", Failing),
    ("generate-failed", Raising),
    ("no-item", Wordy),
    ("no-chunk", Silent),
    ("chunk-after-terminal", GoesOn),
    ("no-terminal", Endless),
    ("no-terminal", Quits),
    ("concurrent-failed", OneAtATime),
    ("streams-mixed-up", Shared),
    ("cancellation-not-observed", Deaf),
    ("cancellation-ignored", Stubborn),
    ("cleanup-failed", DirtyOnce),
    ("second-cleanup", OnlyOnce),
    ("leaked-tasks", LeavesATask),
    ("leaked-threads", LeavesAThread),
]
