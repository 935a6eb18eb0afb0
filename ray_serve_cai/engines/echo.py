"""The reference engine: answers with the prompt's own tokens, without any ML package.

It shows the contract in one page, and stands in for a real engine in tests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ray_serve_cai.engines.base import (
    EngineConfig,
    EngineLoad,
    GenerateContext,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
    chunk,
    usage,
)
from ray_serve_cai.errors import EngineError

DEFAULT_MAX_TOKENS = 64
KNOWN_ARGS = frozenset({"tokens_per_second", "start_delay", "fail", "served_model_name"})


class EchoEngine(LLMEngine):
    """`args`: `tokens_per_second` (0 means no pause), `start_delay` (seconds), `fail` (a message
    that `start` raises, to see how a failure looks)."""

    def __init__(self, args: Mapping[str, Any], model_path: Path) -> None:
        self._name = str(args.get("served_model_name") or model_path.name)
        self._pause = 1.0 / args["tokens_per_second"] if args.get("tokens_per_second") else 0.0
        self._start_delay = float(args.get("start_delay") or 0)
        self._fail = args.get("fail")
        self._model_path = model_path
        self._running = 0

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
        return EngineConfig(
            model=str(self._model_path),
            served_model_name=self._name,
            context_length=_context_length(self._model_path),
        )

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        limit = request.max_tokens or DEFAULT_MAX_TOKENS
        tokens = itertools.cycle(request.token_ids or (0,))
        self._running += 1
        try:
            for sent, token in enumerate(itertools.islice(tokens, limit)):
                if ctx.is_stopped():
                    done = usage(len(request.token_ids), sent)
                    yield LLMEngineOutput.cancelled().with_usage(done)
                    return
                if self._pause:
                    await asyncio.sleep(self._pause)
                if token in request.stop_token_ids:
                    yield LLMEngineOutput.stop().with_usage(usage(len(request.token_ids), sent))
                    return
                yield chunk.token(token)
            yield LLMEngineOutput.length().with_usage(usage(len(request.token_ids), limit))
        finally:
            self._running -= 1

    async def load(self) -> EngineLoad:
        return EngineLoad(running=self._running, waiting=0)

    async def cleanup(self) -> None:
        """Nothing is held."""


def _context_length(model_path: Path) -> int | None:
    config = model_path / "config.json"
    if not config.is_file():
        return None
    length = json.loads(config.read_text()).get("max_position_embeddings")
    return int(length) if length else None
