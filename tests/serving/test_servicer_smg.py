"""The generic servicer behind the real gateway, as a client of OpenAI sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from real_smg import smg, wait_for_models

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.engines.base import (
    ContextLengthExceeded,
    GenerateContext,
    LLMEngine,
    LLMEngineOutput,
    Overloaded,
    PreprocessedRequest,
    chunk,
)
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.serving.servicer import EngineServer, serve_engine
from ray_serve_cai.storage.source import fetch

DEMO = fetch("builtin:demo")
ERRORS = {
    11: ContextLengthExceeded("too long"),
    12: Overloaded("full"),
    13: RuntimeError("out of everything"),
}


class Fails(EchoEngine):
    """With the error that the request names by `max_tokens`; after two tokens, if it streams."""

    async def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        error = ERRORS.get(request.max_tokens or 0)
        if error is not None:
            raise error
        yield chunk.token(request.token_ids[0])
        yield LLMEngineOutput.error("broken off")


class Servers:
    """gRPC servers in a loop of their own, so that tests can block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.servers: list[EngineServer] = []
        self.ports: list[int] = []

    def add(self, engine: LLMEngine) -> EngineServer:
        async def start() -> EngineServer:
            port = free_port("127.0.0.1")
            self.ports.append(port)
            config = await engine.start(1)
            return await serve_engine(engine, config, DEMO, "127.0.0.1", port, check=True)

        server = asyncio.run_coroutine_threadsafe(start(), self.loop).result(20)
        self.servers.append(server)
        return server

    def stop(self) -> None:
        for server in self.servers:
            asyncio.run_coroutine_threadsafe(server.stop(0), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


def echo(name: str, **args: Any) -> EchoEngine:
    return EchoEngine.from_args({"served_model_name": name, **args}, DEMO)


class World:
    def __init__(self, servers: Servers) -> None:
        self.slow = echo("slow", tokens_per_second=50, max_running=1)
        servers.add(echo("chat"))
        servers.add(echo("vectors", embed=8))
        servers.add(Fails({"served_model_name": "fails"}, DEMO))
        self.slow_server = servers.add(self.slow)
        self.twins = [servers.add(echo("twin")) for _ in range(2)]
        self.url = ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    servers = Servers()
    try:
        made = World(servers)
        with smg(tmp_path_factory.mktemp("smg"), servers.ports) as made.url:
            wait_for_models(made.url, {"chat", "vectors", "fails", "slow", "twin"})
            yield made
    finally:
        servers.stop()


@pytest.fixture
def client(world: World) -> Any:
    return openai.OpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, timeout=30)


def complete(client: Any, model: str = "chat", **options: Any) -> Any:
    return client.completions.create(model=model, prompt="one two three", **options)


def test_usage_of_a_stream(client: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5}
    *_, last = complete(client, **options)
    assert last.usage.completion_tokens == 5


def test_several_answers(client: Any) -> None:
    reply = complete(client, n=3, max_tokens=4)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens == 12


def test_logprobs(client: Any) -> None:
    question = [{"role": "user", "content": "one two"}]
    reply = client.chat.completions.create(
        model="chat", messages=question, max_tokens=3, logprobs=True, top_logprobs=2
    )
    entries = reply.choices[0].logprobs.content
    assert len(entries) == 3
    assert entries[0].top_logprobs[0].logprob == pytest.approx(entries[0].logprob)


def test_stop_string(client: Any) -> None:
    reply = complete(client, stop=["two"], max_tokens=30)
    assert reply.choices[0].text == "one "
    assert reply.choices[0].finish_reason == "stop"


def test_embeddings(client: Any) -> None:
    reply = client.embeddings.create(model="vectors", input="one two", encoding_format="float")
    assert len(reply.data[0].embedding) == 8
    assert reply.usage.prompt_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"model": "fails", "max_tokens": 11}, 400, "too long"),
        ({"model": "fails", "max_tokens": 12}, 429, "full"),
        ({"model": "fails", "max_tokens": 13}, 500, "RuntimeError: out of everything"),
        ({"extra_body": {"top_k": 5}}, 400, "does not take top_k"),
        ({"model": "vectors"}, 400, "embeddings|generat"),
    ],
)
def test_errors_have_the_shape_of_openai(
    client: Any, options: Any, status: int, words: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        complete(client, stream=stream, **options)
    assert caught.value.status_code == status
    assert set(caught.value.body) >= {"message", "type"}  # type: ignore[arg-type]


def test_error_in_mid_stream(client: Any) -> None:
    with pytest.raises(openai.APIError, match="broken off"):
        list(complete(client, "fails", stream=True, max_tokens=5))


def slow_load(world: World) -> tuple[int, int]:
    places = world.slow._places
    return places.running, places.waiting


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_go_away(world: World, client: Any, stream: bool) -> None:
    """The running one frees its slot, the queued one never runs; both within a second."""
    body = {"model": "slow", "prompt": "one two three", "max_tokens": 500, "stream": stream}

    async def run() -> None:
        async with httpx.AsyncClient(base_url=world.url, timeout=30) as http:
            calls = []
            for place in ((1, 0), (1, 1)):
                calls.append(asyncio.ensure_future(http.post("/v1/completions", json=body)))
                async with asyncio.timeout(10):
                    while slow_load(world) != place:
                        await asyncio.sleep(0.01)
            made = world.slow_server.progress
            for call, left in ((calls[1], (1, 0)), (calls[0], (0, 0))):
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                async with asyncio.timeout(1):
                    while slow_load(world) != left:
                        await asyncio.sleep(0.01)
            assert world.slow_server.progress - made < 200

    asyncio.run(run())


def test_replica_that_refuses_costs_nobody_an_answer(world: World, client: Any) -> None:
    world.twins[0].refuse()
    before = world.twins[1].progress
    for _ in range(10):
        assert complete(client, "twin", max_tokens=3).usage.completion_tokens == 3
    assert world.twins[1].progress - before == 30
