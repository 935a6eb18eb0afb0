"""The load generator, against a small server that speaks as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from ray_serve_cai.bench.load import Load, Target, run_load
from ray_serve_cai.bench.sample import Sample

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[Target, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        return await answer(request, asked[-1])

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Target(f"http://127.0.0.1:{runner.addresses[0][1]}", "m"), asked
    finally:
        await runner.cleanup()


def events(*data: Any) -> bytes:
    return b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in data)


def text(words: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": words}}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 4}
END = events({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


async def streamed(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """The role at once, the first text after 50 ms, two more in one write after another 50."""
    reply = web.StreamResponse()
    await reply.prepare(request)
    await reply.write(events({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    await asyncio.sleep(0.05)
    await reply.write(events(text("one")))
    await asyncio.sleep(0.05)
    await reply.write(events(text("two"), text("three")) + END)
    return reply


async def loaded(answer: Answer, load: Load) -> tuple[Sample, list[dict[str, Any]]]:
    async with server(answer) as (target, asked):
        return await run_load(target, load), asked


def test_streamed_answers() -> None:
    sample, asked = asyncio.run(loaded(streamed, Load(clients=3, requests=7)))
    assert sample.failed == 0, sample.first_failure
    assert (len(sample.total), sample.tokens, sample.events) == (7, 28, 21)
    assert min(sample.first) > 0.045, "the role is no text"
    assert sum(gap == 0 for gap in sample.gaps) == 7, "two events of each answer in one read"
    assert len(sample.gaps) == 14
    assert len({each["messages"][0]["content"] for each in asked}) == 7
    assert all(each["stream_options"] == {"include_usage": True} for each in asked)


def test_answers_in_one_piece() -> None:
    async def whole(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert not body["stream"]
        return web.json_response({"choices": [{"message": {"content": "x"}}], "usage": USAGE})

    sample, asked = asyncio.run(loaded(whole, Load(clients=2, requests=5, stream=False)))
    assert (len(sample.total), sample.tokens, len(sample.first)) == (5, 20, 0)
    assert "stream_options" not in asked[0]


def test_failures_are_counted_with_the_first_ones_words() -> None:
    async def refuse(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"].startswith("1."):
            return web.Response(status=429, text="try later")
        return web.Response(text="data: {nonsense\n\n")

    sample, _ = asyncio.run(loaded(refuse, Load(clients=1, requests=4)))
    assert (sample.failed, len(sample.total)) == (4, 0)
    assert "JSONDecodeError" in sample.first_failure
    sample, _ = asyncio.run(loaded(refuse, Load(clients=4, requests=4)))
    assert sample.failed == 4


def test_nobody_there() -> None:
    sample = asyncio.run(run_load(Target("http://127.0.0.1:9", "m"), Load(1, 2)))
    assert sample.failed == 2
    assert "ClientConnectorError" in sample.first_failure


@pytest.mark.parametrize("clients", [1, 4])
def test_so_long(clients: int) -> None:
    began = time.perf_counter()
    sample, _ = asyncio.run(loaded(streamed, Load(clients, None, seconds=0.5)))
    assert 0.5 <= time.perf_counter() - began < 5
    assert len(sample.total) >= clients
    assert sample.failed == 0
