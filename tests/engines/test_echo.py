"""The engine contract on the reference engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines.base import (
    TOKEN_COUNT_LIMIT,
    ContextLengthExceeded,
    FinishReason,
    GenerateContext,
    LLMEngineOutput,
    PreprocessedRequest,
    chunk,
    usage,
)
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.errors import EngineError
from ray_serve_cai.storage.source import fetch

PROMPT = (11, 12, 13)


def engine(**args: Any) -> EchoEngine:
    return EchoEngine.from_args(args, Path("/models/demo"))


def answer(
    made: EchoEngine, ctx: GenerateContext | None = None, **params: Any
) -> list[LLMEngineOutput]:
    request = PreprocessedRequest("r1", params.pop("token_ids", PROMPT), **params)

    async def collect() -> list[LLMEngineOutput]:
        return [it async for it in made.generate(request, ctx or GenerateContext("r1"))]

    return asyncio.run(collect())


class TestStream:
    def test_repeats_the_prompt(self) -> None:
        items = answer(engine(), max_tokens=5)
        assert [it.token_ids for it in items] == [(11,), (12,), (13,), (11,), (12,), ()]

    @pytest.mark.parametrize("limit", [1, 2, 64, None])
    def test_one_terminal_last(self, limit: int | None) -> None:
        items = answer(engine(), max_tokens=limit)
        assert [it.finish_reason for it in items[:-1]] == [None] * (len(items) - 1)
        assert items[-1].finish_reason is FinishReason.LENGTH
        assert items[-1].completion_usage == usage(3, len(items) - 1)

    def test_empty_prompt(self) -> None:
        assert len(answer(engine(), token_ids=(), max_tokens=2)) == 3

    def test_cancelled_before(self) -> None:
        ctx = GenerateContext("r1")
        ctx.cancel()
        (only,) = answer(engine(), ctx)
        assert only.finish_reason is FinishReason.CANCELLED

    def test_cancelled_in_mid_stream(self) -> None:
        async def run() -> list[LLMEngineOutput]:
            ctx = GenerateContext("r1")
            items = []
            request = PreprocessedRequest("r1", PROMPT, max_tokens=1000)
            async with asyncio.timeout(2):
                async for item in engine(tokens_per_second=1000).generate(request, ctx):
                    items.append(item)
                    if len(items) == 3:
                        ctx.cancel()
            return items

        items = asyncio.run(run())
        assert items[-1].finish_reason is FinishReason.CANCELLED
        assert items[-1].completion_usage == usage(3, len(items) - 1)
        assert len(items) < 10

    def test_abandoned_stream_frees_its_slot(self) -> None:
        async def run() -> None:
            made = engine()
            stream = made.generate(PreprocessedRequest("r1", PROMPT), GenerateContext("r1"))
            await anext(stream)
            assert (await made.load()).running == 1
            await stream.aclose()  # type: ignore[attr-defined]
            assert (await made.load()).running == 0

        asyncio.run(run())


class TestOptions:
    def test_logprobs(self) -> None:
        items = answer(engine(), max_tokens=2, logprobs=2)
        assert [[it.token_id for it in item.logprobs] for item in items] == [[11], [12], []]
        (first,) = items[0].logprobs
        assert first.top[0] == (11, first.logprob)
        assert len(first.top) == 2
        assert answer(engine(), max_tokens=2, logprobs=2) == items

    def test_prompt_logprobs(self) -> None:
        items = answer(engine(), max_tokens=2, prompt_logprobs=0)
        assert [it.token_id for it in items[0].prompt_logprobs] == list(PROMPT)
        assert items[0].prompt_logprobs[0].logprob is None
        assert items[1].prompt_logprobs == ()

    def test_stop_token(self) -> None:
        items = answer(engine(), stop_token_ids=[12])
        assert [it.token_ids for it in items] == [(11,), ()]
        assert (items[-1].finish_reason, items[-1].matched_stop) == (FinishReason.STOP, 12)
        assert len(answer(engine(), stop_token_ids=[12], min_tokens=2)) == 5

    def test_which_a_request_asks_for(self) -> None:
        assert PreprocessedRequest("r1", PROMPT, temperature=0.0, seed=1).options() == set()
        asked = PreprocessedRequest("r1", PROMPT, logprobs=0, logit_bias={1: 2.0}, min_p=0.5)
        assert asked.options() == {"logprobs", "logit_bias", "min_p"}

    def test_prompt_that_does_not_fit(self) -> None:
        async def run() -> None:
            made = EchoEngine.from_args({}, fetch("builtin:demo"))
            length = (await made.start(1)).context_length
            assert length
            stream = made.generate(PreprocessedRequest("r1", [1] * length), GenerateContext("r1"))
            await anext(stream)

        with pytest.raises(ContextLengthExceeded, match="prompt has") as caught:
            asyncio.run(run())
        assert caught.value.status == 400


class TestQueue:
    def test_waits_for_a_place(self) -> None:
        async def run() -> None:
            made = engine(max_running=1, tokens_per_second=100)
            first = made.generate(PreprocessedRequest("r1", PROMPT), GenerateContext("r1"))
            await anext(first)
            second = asyncio.ensure_future(
                anext(made.generate(PreprocessedRequest("r2", PROMPT), GenerateContext("r2")))
            )
            await asyncio.sleep(0.02)
            load = await made.load()
            assert (load.running, load.waiting) == (1, 1)
            await first.aclose()  # type: ignore[attr-defined]
            assert (await asyncio.wait_for(second, 2)).token_ids == (11,)

        asyncio.run(run())

    def test_cancelled_while_it_waits(self) -> None:
        """It never runs, and its place in the row is free."""

        async def run() -> None:
            made = engine(max_running=1, tokens_per_second=100)
            first = made.generate(PreprocessedRequest("r1", PROMPT), GenerateContext("r1"))
            await anext(first)
            ctx = GenerateContext("r2")
            second = made.generate(PreprocessedRequest("r2", PROMPT), ctx)
            waiting = asyncio.ensure_future(anext(second))
            await asyncio.sleep(0.02)
            ctx.cancel()
            item = await asyncio.wait_for(waiting, 1)
            assert item.finish_reason is FinishReason.CANCELLED
            assert item.completion_usage == usage(3, 0)
            await first.aclose()  # type: ignore[attr-defined]
            load = await made.load()
            assert (load.running, load.waiting) == (0, 0)
            last = made.generate(PreprocessedRequest("r3", PROMPT), GenerateContext("r3"))
            assert (await asyncio.wait_for(anext(last), 1)).token_ids == (11,)

        asyncio.run(run())


class TestOtherArguments:
    def test_wedge(self) -> None:
        made = engine(wedge_after=1)
        assert answer(made, max_tokens=1)
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(made.probe(), 0.1))

    def test_embedding(self) -> None:
        made = engine(embed=8)

        async def vector(*tokens: int) -> list[float]:
            request = PreprocessedRequest("r1", tokens)
            return list(await made.embed(request, GenerateContext("r1")))

        one, same, other = (asyncio.run(vector(*it)) for it in ([1, 2], [1, 2], [1, 3]))
        assert len(one) == 8
        assert one == same != other
        assert sum(value**2 for value in one) == pytest.approx(1)
        assert asyncio.run(made.start(1)).task == "embed"
        asyncio.run(made.probe())


class TestStart:
    def test_describes_itself(self) -> None:
        config = asyncio.run(engine(served_model_name="chat").start(7))
        assert (config.model, config.served_model_name) == ("/models/demo", "chat")
        assert config.context_length is None

    def test_failure(self) -> None:
        with pytest.raises(EngineError, match="no luck"):
            asyncio.run(engine(fail="no luck").start(7))

    def test_cleanup_after_failure_and_twice(self) -> None:
        async def run() -> None:
            made = engine(fail="no luck")
            with pytest.raises(EngineError):
                await made.start(7)
            await made.cleanup()
            await made.cleanup()

        asyncio.run(run())

    def test_unknown_argument(self) -> None:
        with pytest.raises(EngineError, match='no argument "speed"') as caught:
            engine(speed=3)
        assert caught.value.code == "CAI-PLAN-002"


class TestOutput:
    def test_chunk_is_not_terminal(self) -> None:
        assert chunk.token(5) == LLMEngineOutput(token_ids=(5,))

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (LLMEngineOutput.stop, FinishReason.STOP),
            (LLMEngineOutput.length, FinishReason.LENGTH),
            (LLMEngineOutput.cancelled, FinishReason.CANCELLED),
            (lambda: LLMEngineOutput.error("why"), FinishReason.ERROR),
        ],
    )
    def test_terminals(self, make: Callable[[], LLMEngineOutput], reason: FinishReason) -> None:
        item = make().with_tokens([1, 2]).with_usage(usage(1, 2))
        assert item.finish_reason is reason
        assert item.token_ids == (1, 2)
        assert item.completion_usage == usage(1, 2)

    @pytest.mark.parametrize(
        ("prompt", "completion", "total"),
        [
            (1, 2, 3),
            (TOKEN_COUNT_LIMIT, 1, TOKEN_COUNT_LIMIT),
            (TOKEN_COUNT_LIMIT, TOKEN_COUNT_LIMIT, TOKEN_COUNT_LIMIT),
        ],
    )
    def test_total_is_clamped(self, prompt: int, completion: int, total: int) -> None:
        assert usage(prompt, completion).total_tokens == total

    def test_first_token_is_said_once_and_for_all(self) -> None:
        said: list[str] = []
        ctx = GenerateContext("r1", lambda: said.append("r1"))
        assert not ctx.first_token_seen
        ctx.notify_first_token()
        ctx.notify_first_token()
        assert ctx.first_token_seen
        assert said == ["r1"]

    def test_first_token_that_nobody_waits_for(self) -> None:
        ctx = GenerateContext("r1")
        ctx.notify_first_token()
        assert ctx.first_token_seen
