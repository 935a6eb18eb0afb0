"""A closed-loop load: so many clients, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

REQUEST_SECONDS = 300.0


@dataclass(frozen=True)
class Target:
    """An OpenAI endpoint (`url` without `/v1`) and the model to ask there."""

    url: str
    model: str
    key: str | None = None


@dataclass(frozen=True)
class Load:
    """`requests` in all, from `clients` at a time, of `tokens` output tokens, streamed."""

    clients: int
    requests: int
    tokens: int = 32
    prompt: str = "Tell me about the gateway."


@dataclass
class Sample:
    """One round. Times in seconds; `gaps` are between the chunks of one answer."""

    wall: float = 0.0
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.total) / self.wall if self.wall else 0.0

    def row(self) -> dict[str, Any]:
        """Milliseconds, rounded, and requests a second."""
        return {
            "requests_per_second": round(self.rate, 2),
            "ttft_p50_ms": _ms(quantile(self.first, 0.5)),
            "ttft_p95_ms": _ms(quantile(self.first, 0.95)),
            "gap_p50_ms": _ms(quantile(self.gaps, 0.5)),
            "gap_p99_ms": _ms(quantile(self.gaps, 0.99)),
            "latency_p50_ms": _ms(quantile(self.total, 0.5)),
            "answered": len(self.total),
            "failed": len(self.failures),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 for none."""
    if not values:
        return 0.0
    if share == 0.5:
        return median(values)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run_load(target: Target, load: Load) -> Sample:
    """One round of `load` against `target`; failures are counted, not raised."""
    sample = Sample()
    numbers = iter(range(load.requests))
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, headers=headers, connector=connector
    ) as session:

        async def client() -> None:
            for number in numbers:
                await _ask(session, target, load, number, sample)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(load.clients)))
        sample.wall = time.perf_counter() - began
    return sample


async def _ask(
    session: aiohttp.ClientSession, target: Target, load: Load, number: int, sample: Sample
) -> None:
    body = {
        "model": target.model,
        # A different beginning each time, so that no cache of whole prompts answers.
        "messages": [{"role": "user", "content": f"{number}. {load.prompt}"}],
        "max_tokens": load.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    began = last = time.perf_counter()
    first = 0.0
    gaps: list[float] = []
    tail = b""
    try:
        async with session.post(f"{target.url}/v1/chat/completions", json=body) as reply:
            if reply.status != 200:
                sample.failures.append(f"{reply.status}: {(await reply.text())[:200]}")
                return
            async for data in reply.content.iter_any():
                now = time.perf_counter()
                if b'"content":"' in data and not first:
                    first = now - began
                elif first:
                    gaps.append(now - last)
                last = now
                tail = (tail + data)[-64:]
    except (aiohttp.ClientError, TimeoutError) as error:
        sample.failures.append(f"{type(error).__name__}: {error}")
        return
    if b"[DONE]" not in tail or not first:
        sample.failures.append("the stream broke off")
        return
    sample.first.append(first)
    sample.total.append(last - began)
    sample.gaps.extend(gaps)


def merged(samples: Sequence[Sample]) -> Sample:
    """All rounds as one, for quantiles over all requests."""
    whole = Sample(wall=sum(sample.wall for sample in samples))
    for sample in samples:
        whole.first += sample.first
        whole.total += sample.total
        whole.gaps += sample.gaps
        whole.failures += sample.failures
    return whole


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
