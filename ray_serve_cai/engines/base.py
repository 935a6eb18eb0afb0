"""The contract between a replica and an engine.

Life of an engine, in this order:

1. `from_args(args, model_path)`: cheap; no I/O, no heavy import, no side effect.
2. `listen(where)`: only for engines that bring a server of their own (`own_server`).
3. `start(worker_id)`: when it returns, `generate` works (or the endpoint it returns answers).
4. `generate(request, ctx)`, concurrently: an async stream with exactly one terminal item, last.
   After `ctx.cancel()` the stream ends with a `cancelled` terminal within two seconds.
5. `abort(ctx)`: a hint. What a request holds is released in `generate`'s own `finally`.
6. `drain()`: once, before `cleanup`; a failure is logged and shutdown goes on.
7. `cleanup()`: also after a failed `start`, on whatever exists by then; a second call does
   nothing. Not called when `start` never was.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

TOKEN_COUNT_LIMIT = 2**32 - 1


class FinishReason(StrEnum):
    """Why a stream ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Counts with their total, which stops at 2**32 - 1 as the wire format does."""
    total = min(prompt_tokens + completion_tokens, TOKEN_COUNT_LIMIT)
    return Usage(prompt_tokens, completion_tokens, total)


@dataclass(frozen=True)
class PreprocessedRequest:
    """One request, tokenized by the gateway. `max_tokens` of None means up to the context."""

    request_id: str
    token_ids: Sequence[int]
    max_tokens: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class LLMEngineOutput:
    """One item of a stream; terminal when `finish_reason` is set."""

    token_ids: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    completion_usage: Usage | None = None
    error: str | None = None

    @classmethod
    def stop(cls) -> Self:
        return cls(finish_reason=FinishReason.STOP)

    @classmethod
    def length(cls) -> Self:
        return cls(finish_reason=FinishReason.LENGTH)

    @classmethod
    def cancelled(cls) -> Self:
        return cls(finish_reason=FinishReason.CANCELLED)

    @classmethod
    def failed(cls, message: str) -> Self:
        return cls(finish_reason=FinishReason.ERROR, error=message)

    def with_tokens(self, token_ids: Sequence[int]) -> Self:
        return replace(self, token_ids=tuple(token_ids))

    def with_usage(self, counts: Usage) -> Self:
        return replace(self, completion_usage=counts)


class chunk:
    """Constructors of non-terminal items."""

    @staticmethod
    def token(token_id: int) -> LLMEngineOutput:
        return LLMEngineOutput(token_ids=(token_id,))


class GenerateContext:
    """Cancellation of one request, and the signal that its first token is there."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._cancelled = asyncio.Event()
        self._first_token = asyncio.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def is_stopped(self) -> bool:
        return self._cancelled.is_set()

    async def stopped(self) -> None:
        """Return once the request is cancelled."""
        await self._cancelled.wait()

    def notify_first_token(self) -> None:
        """Say that the first token exists; idempotent. The driver calls it on the first chunk."""
        self._first_token.set()

    @property
    def first_token_seen(self) -> bool:
        return self._first_token.is_set()


@dataclass(frozen=True)
class EngineConfig:
    """What a started engine is. `None` means "not advertised", never zero.

    `context_length` and the token counts are in tokens. `endpoint` is `grpc://host:port` or
    `http://host:port` when the engine answers there itself.
    """

    model: str
    served_model_name: str | None = None
    context_length: int | None = None
    kv_cache_block_size: int | None = None
    total_kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    bootstrap_host: str | None = None
    bootstrap_port: int | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Listen:
    """Where an engine with a server of its own must listen. `api_keys` are for HTTP only."""

    host: str
    port: int
    transport: Literal["grpc", "http"]
    api_keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class EngineLoad:
    """Requests in the engine right now."""

    running: int
    waiting: int


class LLMEngine(ABC):
    """Base of every engine; the module's docstring has the guarantees of each method."""

    own_server: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> LLMEngine:
        """Build the engine. `args` are `engine.args` plus `served_model_name`."""

    def listen(self, where: Listen) -> None:
        """Take the address; called before `start` on engines with `own_server`."""
        raise TypeError(f"{type(self).__name__} brings no server of its own")

    @abstractmethod
    async def start(self, worker_id: int) -> EngineConfig:
        """Become ready. `worker_id` is opaque, unique among replicas and stable."""

    @abstractmethod
    def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        """Stream the answer: zero or more chunks, then one terminal item."""

    async def abort(self, ctx: GenerateContext) -> None:  # noqa: B027 - optional by contract
        """A request was cancelled."""

    async def health(self) -> None:
        """Return if the engine can answer, raise if not. The default says yes."""
        return

    async def probe(self) -> None:
        """Make one token and raise if that fails: what `start` promised. An engine that does not
        generate proves itself in its own way."""
        request = PreprocessedRequest("probe", token_ids=(1,), max_tokens=1)
        async for output in self.generate(request, GenerateContext("probe")):
            if output.finish_reason is FinishReason.ERROR:
                raise RuntimeError(output.error or "the engine failed to make a token")

    async def load(self) -> EngineLoad | None:
        """Running and waiting requests, or None when the engine cannot tell."""
        return None

    async def drain(self) -> None:  # noqa: B027 - optional by contract
        """Finish what must finish before the engine goes."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Release everything."""
