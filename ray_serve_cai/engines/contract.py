"""Which rules of the contract in `engines.base` an engine breaks, found by driving it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from ray_serve_cai.engines.base import (
    FinishReason,
    GenerateContext,
    Listen,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
)
from ray_serve_cai.engines.signatures import signature_faults
from ray_serve_cai.engines.validate import ContractError, validated

Factory = Callable[[], LLMEngine]

# What can be wrong, in the order in which it is looked at.
FAILURES = {
    "signature-drift": "a method does not take what it will be given",
    "cleanup-without-start": "cleanup of an engine that was never started raises",
    "start-failed": "start raises",
    "empty-model": "EngineConfig.model is empty",
    "generate-failed": "a plain request raises or ends with an error",
    "no-item": "a stream has something that is no LLMEngineOutput",
    "no-chunk": "a stream has no token",
    "chunk-after-terminal": "an item follows the terminal one",
    "no-terminal": "a stream ends without a finish_reason",
    "concurrent-failed": "requests that run at the same time fail",
    "streams-mixed-up": "a stream has the tokens or the counts of another",
    "cancellation-not-observed": "a cancelled stream does not end within 2 s",
    "cancellation-ignored": "a cancelled stream does not end as cancelled",
    "cleanup-failed": "cleanup raises",
    "second-cleanup": "a second cleanup raises",
    "leaked-tasks": "tasks run on after cleanup",
    "leaked-threads": "threads run on after cleanup",
}
CANCEL_SECONDS = 2.0
# What ends by itself has this long to do so after cleanup.
SETTLE_SECONDS = 5.0
CONCURRENT = 8


@dataclass(frozen=True)
class Failure:
    """A broken rule: a key of `FAILURES`, and what was seen."""

    name: str
    message: str


def check_engine(make: Factory) -> list[Failure]:
    """All rules that the engine breaks; one that cannot start is not looked at further."""
    before = set(threading.enumerate())
    check = _Check(make)
    asyncio.run(check.run())
    left = _settled_threads(before)
    if left:
        check.fail("leaked-threads", ", ".join(sorted(thread.name for thread in left)))
    return check.failures


class _Check:
    def __init__(self, make: Factory) -> None:
        self.failures: list[Failure] = []
        self._make = make

    def fail(self, name: str, message: object) -> None:
        self.failures.append(Failure(name, str(message) or type(message).__name__))

    async def run(self) -> None:
        engine = self._make()
        for fault in signature_faults(type(engine)):
            self.fail("signature-drift", fault)
        if self.failures:
            return
        await self._never_started()
        tasks = asyncio.all_tasks()
        if await self._start(engine) and await self._generate(engine):
            await self._concurrent(engine)
            await self._cancel(engine)
        await self._cleanup(engine)
        left = await _settled_tasks(tasks)
        if left:
            self.fail("leaked-tasks", ", ".join(sorted(task.get_name() for task in left)))

    async def _never_started(self) -> None:
        try:
            await self._make().cleanup()
        except Exception as error:  # noqa: BLE001 - the engine's own
            self.fail("cleanup-without-start", error)

    async def _start(self, engine: LLMEngine) -> bool:
        try:
            if engine.own_server:
                engine.listen(Listen("127.0.0.1", _free_port(), "grpc"))
            config = await engine.start(1)
        except Exception as error:  # noqa: BLE001 - the engine's own
            self.fail("start-failed", error)
            return False
        if not config.model:
            self.fail("empty-model", "EngineConfig.model is empty")
        return True

    async def _generate(self, engine: LLMEngine) -> bool:
        try:
            items = await _collect(engine, _request(0))
        except ContractError as error:
            self.fail(error.name, error)
            return False
        except Exception as error:  # noqa: BLE001 - the engine's own
            self.fail("generate-failed", error)
            return False
        if items[-1].finish_reason is FinishReason.ERROR:
            self.fail("generate-failed", items[-1].message or "it ended with an error")
            return False
        if not _tokens(items):
            self.fail("no-chunk", "no item had a token")
            return False
        return True

    async def _concurrent(self, engine: LLMEngine) -> None:
        """Requests that differ in prompt and length, alone and then all at once."""
        requests = [_request(number) for number in range(CONCURRENT)]
        try:
            alone = [_tokens(await _collect(engine, request)) for request in requests]
        except Exception as error:  # noqa: BLE001 - the engine's own
            self.fail("generate-failed", error)
            return
        streams = [_collect(engine, request) for request in requests]
        together = await asyncio.gather(*streams, return_exceptions=True)
        for number, items in enumerate(together):
            if isinstance(items, BaseException):
                self.fail("concurrent-failed", items)
                return
            if said := _mixed_up(number, items, requests, alone):
                self.fail("streams-mixed-up", said)
                return

    async def _cancel(self, engine: LLMEngine) -> None:
        ctx = GenerateContext("cancelled")
        request = PreprocessedRequest("cancelled", _PROMPT, max_tokens=None, ignore_eos=True)
        stream = validated(engine.generate(request, ctx))
        items: list[LLMEngineOutput] = []
        try:
            await anext(stream)
            ctx.cancel()
            await engine.abort(ctx)
            async with asyncio.timeout(CANCEL_SECONDS):
                items = [item async for item in stream]
        except TimeoutError:
            self.fail("cancellation-not-observed", f"it ran on for {CANCEL_SECONDS:g} s")
        except ContractError as error:
            self.fail(error.name, f"after a cancel: {error}")
        except Exception as error:  # noqa: BLE001 - the engine's own
            self.fail("cancellation-ignored", f"it raised {type(error).__name__}: {error}")
        else:
            reason = items[-1].finish_reason if items else None
            if reason is not FinishReason.CANCELLED:
                self.fail("cancellation-ignored", f"it ended as {reason}")
        await stream.aclose()

    async def _cleanup(self, engine: LLMEngine) -> None:
        for name in ("cleanup-failed", "second-cleanup"):
            try:
                await engine.cleanup()
            except Exception as error:  # noqa: BLE001 - the engine's own
                self.fail(name, error)


# Small numbers are in every vocabulary.
_PROMPT = (3, 5, 7)


def _request(number: int) -> PreprocessedRequest:
    prompt = (3 + number, *_PROMPT, *([11 + number] * number))
    return PreprocessedRequest(
        f"request-{number}",
        prompt,
        max_tokens=4 + number,
        ignore_eos=True,
        temperature=0.0,
        seed=number,
    )


async def _collect(engine: LLMEngine, request: PreprocessedRequest) -> list[LLMEngineOutput]:
    ctx = GenerateContext(request.request_id)
    stream: AsyncIterator[LLMEngineOutput] = validated(engine.generate(request, ctx))
    return [item async for item in stream]


def _tokens(items: Sequence[LLMEngineOutput]) -> tuple[int, ...]:
    return tuple(token for item in items for token in item.token_ids)


def _mixed_up(
    number: int,
    items: Sequence[LLMEngineOutput],
    requests: Sequence[PreprocessedRequest],
    alone: Sequence[tuple[int, ...]],
) -> str | None:
    """Batches round otherwise than single requests, so another answer than alone is no proof; the
    answer or the counts of another request are."""
    tokens, counts = _tokens(items), items[-1].completion_usage
    if counts is not None and counts.prompt_tokens != len(requests[number].token_ids):
        return (
            f"a prompt of {len(requests[number].token_ids)} tokens is counted as "
            f"{counts.prompt_tokens}"
        )
    if tokens == alone[number]:
        return None
    if len(tokens) != len(alone[number]):
        return f"{len(tokens)} tokens came instead of {len(alone[number])}"
    for other, theirs in enumerate(alone):
        same = theirs[: len(tokens)] == tokens[: len(theirs)]
        if other != number and same and theirs != alone[number][: len(theirs)]:
            return f"request {number} was answered with the tokens of request {other}"
    return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def _settled_tasks(before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    mine = {*before, asyncio.current_task()}
    async with asyncio.timeout(SETTLE_SECONDS * 2):
        for _ in range(int(SETTLE_SECONDS / 0.05)):
            left = asyncio.all_tasks() - mine
            if not left:
                break
            await asyncio.sleep(0.05)
    return left


def _settled_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(SETTLE_SECONDS)
    return {thread for thread in left if thread.is_alive()}
