"""The reference engine: answers with the prompt's own tokens, without any ML package.

It shows the contract in one page, and stands in for a real engine in tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ray_serve_cai.engines.base import (
    ContextLengthExceeded,
    EngineConfig,
    EngineLoad,
    GenerateContext,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
    TokenLogprob,
    chunk,
    usage,
)
from ray_serve_cai.errors import EngineError

DEFAULT_MAX_TOKENS = 64
KNOWN_ARGS = frozenset(
    {
        *("tokens_per_second", "start_delay", "fail", "max_running", "wedge_after", "embed"),
        "served_model_name",
    }
)


class EchoEngine(LLMEngine):
    """`args`: `tokens_per_second` (0 means no pause), `start_delay` (seconds), `fail` (a message
    that `start` raises, to see how a failure looks), `max_running` (requests at once; the others
    wait), `wedge_after` (requests, the cluster's own probes among them, after which it answers
    nothing any more), `embed` (makes vectors of that many numbers instead of tokens)."""

    options: ClassVar[frozenset[str]] = frozenset({"logprobs", "prompt_logprobs", "min_tokens"})

    def __init__(self, args: Mapping[str, Any], model_path: Path) -> None:
        self._name = str(args.get("served_model_name") or model_path.name)
        self._pause = 1.0 / args["tokens_per_second"] if args.get("tokens_per_second") else 0.0
        self._start_delay = float(args.get("start_delay") or 0)
        self._fail = args.get("fail")
        self._wedge_after = int(args.get("wedge_after") or 0)
        self._dimensions = int(args.get("embed") or 0)
        self._model_path = model_path
        self._context_length: int | None = None
        self._asked = 0
        self._made = 0
        self._places = _Places(int(args.get("max_running") or 0))

    @classmethod
    def from_args(cls, args: Mapping[str, Any], model_path: Path) -> EchoEngine:
        unknown = sorted(set(args) - KNOWN_ARGS)
        if unknown:
            raise EngineError("CAI-PLAN-002", f'the echo engine has no argument "{unknown[0]}"')
        return cls(args, model_path)

    async def start(self, worker_id: int) -> EngineConfig:
        await asyncio.sleep(self._start_delay)
        if self._fail:
            raise EngineError("CAI-MODEL-002", str(self._fail))
        self._context_length = _context_length(self._model_path)
        return EngineConfig(
            model=str(self._model_path),
            served_model_name=self._name,
            context_length=self._context_length,
            max_num_seqs=self._places.limit or None,
            task="embed" if self._dimensions else "generate",
        )

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        limit = self._limit(request)
        await self._maybe_wedge()
        prompt = len(request.token_ids)
        async with self._places.take(ctx) as taken:
            sent = 0
            for item in self._answer(request, limit) if taken else ():
                if ctx.is_stopped():
                    break
                if self._pause and item.token_ids:
                    await asyncio.sleep(self._pause)
                sent += len(item.token_ids)
                self._made += len(item.token_ids)
                yield item if item.finish_reason is None else item.with_usage(usage(prompt, sent))
                if item.finish_reason is not None:
                    return
            yield LLMEngineOutput.cancelled().with_usage(usage(prompt, sent))

    async def embed(self, request: PreprocessedRequest, ctx: GenerateContext) -> Sequence[float]:
        self._limit(request)
        await self._maybe_wedge()
        # The same for the same tokens, and of length one, as models' vectors mostly are.
        words = ",".join(map(str, request.token_ids))
        digest = hashlib.shake_256(words.encode()).digest(self._dimensions)
        values = [byte - 127.5 for byte in digest]
        norm = math.hypot(*values)
        return [value / norm for value in values]

    async def probe(self) -> None:
        if self._dimensions:
            await self.embed(PreprocessedRequest("probe", (1,)), GenerateContext("probe"))
        else:
            await super().probe()

    async def load(self) -> EngineLoad:
        return EngineLoad(self._places.running, self._places.waiting, progress=self._made)

    async def cleanup(self) -> None:
        """Nothing is held."""

    def _limit(self, request: PreprocessedRequest) -> int:
        """How many tokens to answer with at most."""
        limit = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        if self._context_length is None:
            return limit
        room = self._context_length - len(request.token_ids)
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {len(request.token_ids)} tokens; "
                f"prompt and answer together may have {self._context_length}"
            )
        return min(limit, room)

    async def _maybe_wedge(self) -> None:
        self._asked += 1
        if self._wedge_after and self._asked > self._wedge_after:
            await asyncio.Event().wait()

    def _answer(self, request: PreprocessedRequest, limit: int) -> Iterator[LLMEngineOutput]:
        prompt = _prompt_logprobs(request)
        tokens = itertools.cycle(request.token_ids or (0,))
        for number, token in enumerate(itertools.islice(tokens, limit)):
            if token in request.stop_token_ids and number >= (request.min_tokens or 0):
                yield replace(LLMEngineOutput.stop(token), prompt_logprobs=prompt)
                return
            item = replace(chunk.token(token), prompt_logprobs=prompt)
            prompt = ()
            if request.logprobs is not None:
                item = item.with_logprobs([_logprob(token, request.logprobs)])
            yield item
        yield LLMEngineOutput.length()


class _Places:
    """Room for so many requests at once, without limit if that is 0; the others wait in a row."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = self.waiting = 0
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def take(self, ctx: GenerateContext) -> AsyncIterator[bool]:
        """Hold a place, after a wait for it; False when the request is cancelled meanwhile."""
        if self.limit and not await self._turn(ctx):
            yield False
            return
        self.running += 1
        try:
            yield True
        finally:
            self.running -= 1
            self._free.release()

    async def _turn(self, ctx: GenerateContext) -> bool:
        turn = asyncio.ensure_future(self._free.acquire())
        stopped = asyncio.ensure_future(ctx.stopped())
        self.waiting += 1
        try:
            await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.done():
                self._free.release()
            raise
        finally:
            self.waiting -= 1
            taken = turn.done()
            turn.cancel()
            stopped.cancel()
        return taken


def _prompt_logprobs(request: PreprocessedRequest) -> tuple[TokenLogprob, ...]:
    wanted = request.prompt_logprobs
    if wanted is None or not request.token_ids:
        return ()
    first, *others = request.token_ids
    return (TokenLogprob(first, None), *(_logprob(token, wanted) for token in others))


def _logprob(token: int, alternatives: int) -> TokenLogprob:
    """Made up, and always the same for a token: it is the likeliest, its neighbours follow."""
    own = -0.1 * (1 + token % 9)
    near = (token - k if token >= k else token + k for k in range(max(alternatives, 0)))
    return TokenLogprob(token, own, tuple((other, own - k) for k, other in enumerate(near)))


def _context_length(model_path: Path) -> int | None:
    config = model_path / "config.json"
    if not config.is_file():
        return None
    length = json.loads(config.read_text()).get("max_position_embeddings")
    return int(length) if length else None
