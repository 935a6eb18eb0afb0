"""The contract between a replica and an engine.

Life of an engine, in this order:

1. `from_args(args, model_path)`: cheap; no I/O, no heavy import, no side effect.
2. `listen(where)`: only for engines that bring a server of their own (`own_server`).
3. `start(worker_id)`: when it returns, `generate` works (or the endpoint it returns answers).
4. `generate(request, ctx)`, concurrently: an async stream with exactly one terminal item, last.
   After `ctx.cancel()` the stream ends with a `cancelled` terminal within two seconds; a request
   that was cancelled before its turn came never runs. A `RequestError`, raised before the first
   item or later, ends the stream with its HTTP status; any other exception is an internal error.
   An engine whose `EngineConfig.task` is `embed` gets `embed(request, ctx)` instead.
5. `abort(ctx)`: a hint. What a request holds is released in `generate`'s own `finally`.
6. `drain()`: once, before `cleanup`; a failure is logged and shutdown goes on.
7. `cleanup()`: also after a failed `start`, on whatever exists by then; a second call does
   nothing. Not called when `start` never was.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ray_serve_cai.engines.output import (
    TOKEN_COUNT_LIMIT,
    FinishReason,
    LLMEngineOutput,
    TokenLogprob,
    Usage,
    chunk,
    usage,
)
from ray_serve_cai.engines.request import (
    OPTIONS,
    Constraint,
    ContextLengthExceeded,
    InvalidRequest,
    Overloaded,
    PreprocessedRequest,
    RequestError,
    Unavailable,
    Unsupported,
)

# Everything that the author of an engine needs comes from here.
__all__ = [
    "OPTIONS",
    "TOKEN_COUNT_LIMIT",
    "Constraint",
    "ContextLengthExceeded",
    "EngineConfig",
    "EngineLoad",
    "FinishReason",
    "GenerateContext",
    "InvalidRequest",
    "LLMEngine",
    "LLMEngineOutput",
    "Listen",
    "Overloaded",
    "PreprocessedRequest",
    "RequestError",
    "TokenLogprob",
    "Unavailable",
    "Unsupported",
    "Usage",
    "chunk",
    "usage",
]


class GenerateContext:
    """Cancellation of one request, and the signal that its first token is there.

    `on_first_token` is called once, by whoever first says so; without it the signal is only kept.
    """

    def __init__(self, request_id: str, on_first_token: Callable[[], None] | None = None) -> None:
        self.request_id = request_id
        self._cancelled = asyncio.Event()
        self._first_token_seen = False
        self._on_first_token = on_first_token

    def cancel(self) -> None:
        self._cancelled.set()

    def is_stopped(self) -> bool:
        return self._cancelled.is_set()

    async def stopped(self) -> None:
        """Return once the request is cancelled."""
        await self._cancelled.wait()

    def notify_first_token(self) -> None:
        """Say that the first token exists; further calls do nothing.

        The driver calls it on the first item with a token, so an engine need not, unless it
        knows earlier.
        """
        if self._first_token_seen:
            return
        self._first_token_seen = True
        if self._on_first_token is not None:
            self._on_first_token()

    @property
    def first_token_seen(self) -> bool:
        return self._first_token_seen


@dataclass(frozen=True)
class EngineConfig:
    """What a started engine is. `None` means "not advertised", never zero.

    `context_length` and the token counts are in tokens. `endpoint` is `grpc://host:port` or
    `http://host:port` when the engine answers there itself. `task` is what it does with a prompt.
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
    task: Literal["generate", "embed"] = "generate"


@dataclass(frozen=True)
class Listen:
    """Where an engine with a server of its own must listen. `api_keys` are for HTTP only."""

    host: str
    port: int
    transport: Literal["grpc", "http"]
    api_keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class EngineLoad:
    """Requests in the engine right now.

    `progress` is any number that changes while the engine makes tokens, None when it has none to
    give: it tells a busy engine from a stuck one.
    """

    running: int
    waiting: int
    progress: float | None = None


class LLMEngine(ABC):
    """Base of every engine; the module's docstring has the guarantees of each method."""

    own_server: ClassVar[bool] = False
    # Which of `request.OPTIONS` it heeds; looked at only for an engine without its own server.
    options: ClassVar[frozenset[str]] = frozenset()

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

    async def embed(self, request: PreprocessedRequest, ctx: GenerateContext) -> Sequence[float]:
        """The vector of the request's tokens."""
        raise Unsupported(f"{type(self).__name__} makes no embeddings")

    async def abort(self, ctx: GenerateContext) -> None:  # noqa: B027 - optional by contract
        """A request was cancelled."""

    async def health(self) -> None:
        """Return if the engine can answer, raise if not. The default says yes."""
        return

    async def probe(self) -> None:
        """Make one token and raise if that fails: what `start` promised, and asked again from
        time to time while the engine serves. One that does not generate proves itself in its own
        way."""
        request = PreprocessedRequest("probe", token_ids=(1,), max_tokens=1)
        async for output in self.generate(request, GenerateContext("probe")):
            if output.finish_reason is FinishReason.ERROR:
                raise RuntimeError(output.message or "the engine failed to make a token")

    async def load(self) -> EngineLoad | None:
        """Running and waiting requests, or None when the engine cannot tell."""
        return None

    async def drain(self) -> None:  # noqa: B027 - optional by contract
        """Finish what must finish before the engine goes."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Release everything."""
