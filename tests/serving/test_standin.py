"""The stand-in over real sockets, before a small server in the gateway's place. No Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ray_serve_cai.serving.standin import Place, StandIn
from ray_serve_cai.spec import ReplicaRange

Scene = Callable[["World"], Awaitable[None]]


class World:
    """A stand-in, the gateway that it passes on to, and a client of the model `chat`."""

    def __init__(self, stand_in: StandIn, gateway: str, seen: list[Any]) -> None:
        self.stand_in, self.seen = stand_in, seen
        self.client = httpx.AsyncClient(timeout=20, trust_env=False)
        self.gateway = gateway

    def place(self, starting: bool = True, **keys: Any) -> Place:
        limits = ReplicaRange(**{"min": 0, "max": 1, "hold_timeout": 20.0, "queue": 2} | keys)
        return self.stand_in.place("chat", limits, starting=starting)

    def ask(self, **options: Any) -> asyncio.Task[httpx.Response]:
        url = f"{self.stand_in.url('chat', 1)}/v1/completions?a=1"
        return asyncio.create_task(self.client.post(url, content=b'{"x": "\xc3\xa9"}', **options))


def play(scene: Scene, most_held: int = 10) -> None:
    async def run() -> None:
        async with server() as (gateway, seen):
            stand_in = StandIn(gateway, most_held)
            await stand_in.start()
            world = World(stand_in, gateway, seen)
            try:
                await scene(world)
            finally:
                await world.client.aclose()
                await stand_in.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


@asynccontextmanager
async def server() -> AsyncIterator[tuple[str, list[Any]]]:
    """A gateway that streams ten pieces and notes what reaches it, and whose client left."""
    seen: list[Any] = []

    async def answer(request: Request) -> Response:
        if request.headers.get("x-early") and not seen:
            seen.append("early")
            return Response("", 503, {"x-smg-error-code": "no_available_workers"})
        seen.append((request.url.path, request.url.query, await request.body(), request.headers))

        async def pieces() -> AsyncIterator[bytes]:
            try:
                for number in range(10):
                    yield b"data: %d\n\n" % number
                    await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                seen.append("left")
                raise

        return StreamingResponse(pieces(), 201, {"X-Of": "gateway"})

    app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
    made = uvicorn.Server(config)
    task = asyncio.create_task(made.serve())
    while not made.started:
        await asyncio.sleep(0.01)
    port = made.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", seen
    finally:
        made.should_exit = made.force_exit = True
        await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


WHOLE = b"".join(b"data: %d\n\n" % number for number in range(10))


def test_held_then_passed_on_byte_for_byte() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        asked = world.ask(headers={"Authorization": "Bearer sk-mine"})
        await until(lambda: place.held == 1)
        assert (place.asked, world.seen) == (1, [])
        place.open.set()
        reply = await asked
        assert (reply.status_code, reply.headers["X-Of"], reply.content) == (201, "gateway", WHOLE)
        path, query, body, headers = world.seen[0]
        assert (path, query, body) == ("/v1/completions", "a=1", b'{"x": "\xc3\xa9"}')
        assert headers["authorization"] == "Bearer sk-mine"
        assert place.held == 0

    play(scene)


def test_replica_that_goes_at_the_last_moment() -> None:
    async def scene(world: World) -> None:
        world.place().open.set()
        reply = await world.ask(headers={"X-Early": "1"})
        assert (reply.status_code, reply.content, world.seen[0]) == (201, WHOLE, "early")

    play(scene)


def test_stream_outlives_its_place() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        asked = world.ask()
        place.open.set()
        await until(lambda: world.seen)
        place.open.clear()
        world.stand_in.forget("chat")
        assert (await asked).content == WHOLE

    play(scene)


def test_model_deleted_while_a_request_waits() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        asked = world.ask()
        await until(lambda: place.held == 1)
        world.stand_in.forget("chat")
        assert (await asked).status_code == 404
        assert (await world.ask()).status_code == 404

    play(scene)


def test_full_queue() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        waiting = [world.ask(), world.ask()]
        await until(lambda: place.held == 2)
        reply = await world.ask()
        assert error(reply) == (429, "rate_limit_error", "model_queue_full")
        assert int(reply.headers["Retry-After"]) > 0
        place.open.set()
        assert {(await it).status_code for it in waiting} == {201}

    play(scene)


def test_queue_of_all_models_is_bounded_too() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        asked = world.ask()
        await until(lambda: place.held == 1)
        assert (await world.ask()).status_code == 429
        place.open.set()
        await asked

    play(scene, most_held=1)


def test_waiting_too_long() -> None:
    async def scene(world: World) -> None:
        place = world.place(hold_timeout=0.1)
        reply = await world.ask()
        assert error(reply) == (503, "server_error", "model_hold_timeout")
        assert int(reply.headers["Retry-After"]) > 0
        assert place.held == 0

    play(scene)


def test_refusing() -> None:
    async def scene(world: World) -> None:
        place = world.place(when_empty="refuse")
        reply = await world.ask()
        assert error(reply) == (503, "server_error", "model_starting")
        assert int(reply.headers["Retry-After"]) > 0
        # It wakes the model, and one that came just in time is served.
        assert place.asked == 1
        place.open.set()
        assert (await world.ask()).status_code == 201

    play(scene)


@pytest.mark.parametrize(("starting", "code"), [(False, "model_idle"), (True, "model_starting")])
def test_fixed_number(starting: bool, code: str) -> None:
    async def scene(world: World) -> None:
        world.stand_in.place("chat", None, starting=starting)
        reply = await world.ask()
        assert error(reply) == (503, "server_error", code)
        assert ("Retry-After" in reply.headers) == starting

    play(scene)


def test_client_that_leaves_while_it_waits_is_never_passed_on() -> None:
    async def scene(world: World) -> None:
        place = world.place()
        asked = world.ask()
        await until(lambda: place.held == 1)
        asked.cancel()
        await until(lambda: place.held == 0)
        place.open.set()
        await asyncio.sleep(0.1)
        assert world.seen == []

    play(scene)


def test_client_that_leaves_in_mid_stream_ends_it_behind() -> None:
    async def scene(world: World) -> None:
        world.place().open.set()
        url = f"{world.stand_in.url('chat', 1)}/v1/completions"
        async with world.client.stream("POST", url, content=b"{}") as reply:
            async for _ in reply.aiter_raw():
                break
        await until(lambda: "left" in world.seen)

    play(scene)


def test_what_smg_asks_a_worker() -> None:
    async def scene(world: World) -> None:
        world.place()
        base = world.stand_in.url("chat", 7)
        assert (await world.client.get(f"{base}/health")).status_code == 200
        models = (await world.client.get(f"{base}/v1/models")).json()
        assert [row["id"] for row in models["data"]] == ["chat"]
        assert (await world.client.get(f"{base}/loads")).status_code == 404

    play(scene)


def error(reply: httpx.Response) -> tuple[int, str, str]:
    found = reply.json()["error"]
    assert set(found) == {"message", "type", "code", "param"}
    return reply.status_code, found["type"], found["code"]
