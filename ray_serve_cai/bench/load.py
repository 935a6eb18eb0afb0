"""A closed-loop load: so many clients, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import psutil

from ray_serve_cai.bench.answer import Answer
from ray_serve_cai.bench.sample import Sample

REQUEST_SECONDS = 300.0
# A server that refuses at once is not asked as fast as a core can.
PAUSE_SECONDS = 0.1

# The processes that serve a target, each with the name of its group.
Processes = Callable[[], Mapping[psutil.Process, str]]


@dataclass(frozen=True)
class Target:
    """An OpenAI endpoint (`url` without `/v1`) and the model to ask there."""

    url: str
    model: str
    key: str | None = None
    processes: Processes | None = None


@dataclass(frozen=True)
class Load:
    """From `clients` at a time, so many `requests` in all or for so many `seconds`, each of
    `tokens` output tokens."""

    clients: int
    requests: int | None = None
    tokens: int = 32
    prompt: str = "Tell me about the gateway."
    stream: bool = True
    seconds: float | None = None


async def run_load(target: Target, load: Load) -> Sample:
    """One round of `load` against `target`; failures are counted, not raised."""
    sample = Sample()
    numbers = _numbers(load)
    async with _session(target) as session:

        async def client() -> None:
            for number in numbers:
                await _ask(session, target, load, number, sample)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(load.clients)))
        sample.wall = time.perf_counter() - began
    return sample


def _numbers(load: Load) -> Iterator[int]:
    """One for each request; all clients take from it, and when it ends no further one is sent."""
    until = None if load.seconds is None else time.perf_counter() + load.seconds
    for number in count():
        if number == load.requests or (until is not None and time.perf_counter() >= until):
            return
        yield number


def _session(target: Target) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        headers={"Authorization": f"Bearer {target.key}"} if target.key else {},
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _ask(
    session: aiohttp.ClientSession, target: Target, load: Load, number: int, sample: Sample
) -> None:
    answer = Answer()
    events: list[float] = []
    began = time.perf_counter()
    try:
        async with session.post(
            f"{target.url}/v1/chat/completions", json=_body(target, load, number)
        ) as reply:
            if reply.status != 200:
                answer.error = f"{reply.status}: {(await reply.text())[:200]}"
            elif load.stream:
                async for data in reply.content.iter_any():
                    came = time.perf_counter()
                    events.extend([came] * answer.feed(data))
            else:
                answer.whole(await reply.read())
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    ended = time.perf_counter()
    if not answer.fault:
        sample.add(answer, began, events, ended)
        return
    sample.fail(answer.fault)
    await asyncio.sleep(PAUSE_SECONDS)


def _body(target: Target, load: Load, number: int) -> dict[str, Any]:
    body = {
        "model": target.model,
        # A different beginning each time, so that no cache of whole prompts answers.
        "messages": [{"role": "user", "content": f"{number}. {load.prompt}"}],
        "max_tokens": load.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": load.stream,
    }
    return body | ({"stream_options": {"include_usage": True}} if load.stream else {})
