"""The stand-in: an HTTP worker in the gateway's actor that answers for models without replicas.

SMG answers 404 for a model of which it knows no worker. A request that comes here instead is held
until a replica is routed and then passed on, or is refused, as the model's spec says. What has
been passed on streams through here to its end, whatever becomes of the model's place.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ray_serve_cai.spec import ReplicaRange

# Of the bodies of all requests that wait.
HELD_BYTES = 256 * 1024**2
RETRY_SECONDS = 10
BEGIN_SECONDS = 5.0
ROUTE_SECONDS = 15.0
ROUTE_PAUSE_SECONDS = 0.25
_CODE = "x-smg-error-code"
_NOT_ROUTED = ("model_not_found", "no_available_workers")
# Between this process and SMG, or of the connection alone.
_HOP = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive"})


@dataclass
class Place:
    """One model's place. `limits` of None: nothing wakes it; `starting`: it is being woken.

    `asked` counts its requests, `open` lets those that wait go on to the replicas, `seconds` is
    how long a replica took to come last time.
    """

    model: str
    limits: ReplicaRange | None
    starting: bool = False
    asked: int = 0
    held: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = RETRY_SECONDS


class StandIn:
    """Serves all places on one loopback port. `most_held`: requests that wait, of all models: a
    request that waits and the one that it becomes both count for SMG's limit."""

    def __init__(self, gateway_url: str, most_held: int) -> None:
        self._most_held = most_held
        self._places: dict[str, Place] = {}
        self._bytes = 0
        # The gateway has a limit of its own, and no TLS.
        self._client = httpx.AsyncClient(
            base_url=gateway_url, timeout=None, trust_env=False, verify=False
        )
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._base = ""

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self._base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self, log_level="warning", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        async with asyncio.timeout(BEGIN_SECONDS):
            while not self._server.started:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = self._server.force_exit = True
            await asyncio.wait({self._serving}, timeout=BEGIN_SECONDS)
        await self._client.aclose()

    def place(self, model: str, limits: ReplicaRange | None, *, starting: bool) -> Place:
        """The model's place, made when it is not there, with this rule from now on."""
        found = self._places.setdefault(_key(model), Place(model, limits))
        found.limits, found.starting = limits, starting
        return found

    def forget(self, model: str) -> None:
        """The model is gone; those that wait are answered so."""
        place = self._places.pop(_key(model), None)
        if place is not None:
            place.open.set()

    def url(self, model: str, number: int) -> str:
        """A worker's address. SMG lists one that left for seconds, so each time has a number."""
        return f"{self._base}/{_key(model)}.{number}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        _, key, *rest = request.url.path.split("/", 2)
        path = "/" + "".join(rest)
        place = self._places.get(key.split(".")[0])
        if place is None:
            await _gone("")(scope, receive, send)
        elif request.method == "GET":
            await _probed(place, path)(scope, receive, send)
        else:
            await self._while_connected(request, place, path, send)

    async def _while_connected(
        self, request: Request, place: Place, path: str, send: Send
    ) -> None:
        """Answer, unless the client goes first: then the request ends wherever it is."""
        place.asked += 1
        size = int(request.headers.get("content-length", 0))
        self._bytes += size
        try:
            body = await request.body()
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while (await request.receive())["type"] != "http.disconnect":
                        continue
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                response = await self._answer(request, place, path, body)
                await response(request.scope, _never, send)
                group.cancel_scope.cancel()
        except ClientDisconnect:
            return
        finally:
            self._bytes -= size

    async def _answer(self, request: Request, place: Place, path: str, body: bytes) -> Response:
        if not place.open.is_set() and (refusal := await self._wait(place)) is not None:
            return refusal
        if place.model not in {known.model for known in self._places.values()}:
            return _gone(place.model)
        return await self._pass_on(request, path, body)

    async def _wait(self, place: Place) -> Response | None:
        """Return None once a replica is routed, else the refusal."""
        limits, after = place.limits, max(math.ceil(place.seconds), 1)
        if limits is None and not place.starting:
            return _error(503, "model_idle", f'model "{place.model}" is idle: it has no replicas')
        if limits is None or limits.when_empty == "refuse":
            message = f'model "{place.model}" has no replica; one is being started'
            return _error(503, "model_starting", message, after)
        held = sum(each.held for each in self._places.values())
        if place.held >= limits.queue or held >= self._most_held or self._bytes > HELD_BYTES:
            message = f'too many requests wait for a replica of model "{place.model}"'
            return _error(429, "model_queue_full", message, after)
        place.held += 1
        try:
            async with asyncio.timeout(limits.hold_timeout):
                await place.open.wait()
        except TimeoutError:
            message = f'no replica of model "{place.model}" was ready in time'
            return _error(503, "model_hold_timeout", message, after)
        finally:
            place.held -= 1
        return None

    async def _pass_on(self, request: Request, path: str, body: bytes) -> Response:
        """The gateway's answer as it comes; by now it routes to a replica."""
        headers = [(n, v) for n, v in request.headers.items() if n.lower() not in _HOP]
        onward = self._client.build_request(
            request.method, path, params=request.query_params, headers=headers, content=body
        )
        try:
            reply = await _until_routed(partial(self._client.send, onward, stream=True))
        except httpx.HTTPError as error:
            return _error(502, "gateway_lost", f"the gateway did not answer: {error}")
        kept = {n: v for n, v in reply.headers.items() if n.lower() not in _HOP}
        return StreamingResponse(_raw(reply), reply.status_code, kept)


async def _until_routed(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer; for a while again where the replica has gone in the meantime."""
    deadline = time.monotonic() + ROUTE_SECONDS
    while True:
        reply = await send()
        if reply.headers.get(_CODE) not in _NOT_ROUTED or time.monotonic() > deadline:
            return reply
        await reply.aclose()
        await asyncio.sleep(ROUTE_PAUSE_SECONDS)


async def _raw(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in reply.aiter_raw():
            yield piece
    finally:
        await reply.aclose()


async def _never() -> dict[str, object]:
    await asyncio.Event().wait()
    return {}


def _probed(place: Place, path: str) -> Response:
    """What SMG asks a worker when it registers it."""
    if path == "/v1/models":
        row = {"id": place.model, "object": "model", "owned_by": "cai"}
        return JSONResponse({"object": "list", "data": [row]})
    return Response(status_code=200 if path == "/health" else 404)


def _gone(model: str) -> Response:
    return _error(404, "model_not_found", f'there is no model "{model}"')


def _error(status: int, code: str, message: str, after: int | None = None) -> Response:
    kind = {429: "rate_limit_error", 404: "invalid_request_error"}.get(status, "server_error")
    error = {"message": message, "type": kind, "code": code, "param": None}
    headers = {"Retry-After": str(after)} if after else {}
    return JSONResponse({"error": error}, status, headers)


def _key(model: str) -> str:
    """Of a fixed form, since a model's name may hold slashes."""
    return hashlib.sha256(model.encode()).hexdigest()[:16]
