"""A proxy on loopback that forwards requests to a store and spoils the answers it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import yarl
from aiohttp import web

FOR_EVER = 10**9
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server"})
_NOT_PASSED_ON = frozenset({"transfer-encoding", "expect"})
# In the queries of S3, Azure and Google.
_LISTS = ("list-type=", "comp=list", "prefix=")
_BLOCK_BYTES = 64 * 2**10


@dataclass
class Seen:
    """One request; `sent` counts the bytes of the answer's body. `at` is in monotonic seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    at: float
    fault: bool = False
    status: int = 0
    sent: int = 0


@dataclass
class Fault:
    """What to do to the first `times` requests of `method` with `part` in their path.

    An answer of the store is changed, in this order: `flip` flips the body's last byte, `lose`
    takes that many bytes off its end and `honest` says whether Content-Length admits it, `headers`
    replace the store's. It breaks off after `cut` bytes. `rate` is in bytes/s. `status` answers in
    the store's place, with `text`.
    """

    part: str = ""
    method: str = "GET"
    times: int = FOR_EVER
    status: int | None = None
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    flip: bool = False
    lose: int = 0
    honest: bool = True
    length: int | None = None
    cut: int | None = None
    rate: float | None = None
    before: Callable[[], object] | None = None
    lists: bool = False

    def takes(self, request: web.BaseRequest) -> bool:
        is_list = any(word in request.query_string for word in _LISTS)
        fits = request.method == self.method and self.part in request.path
        if self.times < 1 or not fits or is_list != self.lists:
            return False
        self.times -= 1
        return True


class Proxy:
    """In a thread with an event loop of its own, from `with` to its end."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        self._upstream, self._tls = upstream.rstrip("/"), tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.url = ""

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """No more faults, and nothing seen so far."""
        with self._lock:
            self._faults.clear()
            self.seen.clear()

    def asked(self, part: str = "", method: str = "GET") -> list[Seen]:
        """The requests for objects with `part` in their path, oldest first; no listings."""
        with self._lock:
            return [
                each
                for each in self.seen
                if part in each.path and each.method == method and "list-type" not in each.query
            ]

    @property
    def sent(self) -> int:
        """Bytes of objects so far."""
        return sum(each.sent for each in self.asked())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self._ending = asyncio.Event()
        self._client = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None), shutdown_timeout=0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"{'https' if self._tls else 'http'}://{host}:{port}"

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
            # Nobody waits for the rest.
            raise asyncio.CancelledError

    async def _stop(self) -> None:
        self._ending.set()
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(
            request.method,
            request.path,
            request.query_string,
            dict(request.headers),
            time.monotonic(),
        )
        with self._lock:
            self.seen.append(seen)
            fault = next((each for each in self._faults if each.takes(request)), None)
        seen.fault = fault is not None
        body = await _body(request)
        if fault and fault.before:
            await asyncio.to_thread(fault.before)
        if fault and fault.status:
            seen.status = fault.status
            return web.Response(status=fault.status, headers=fault.headers, text=fault.text)
        try:
            return await self._forward(request, body, fault or Fault(), seen)
        except ConnectionResetError:
            # Whoever asked has gone.
            raise asyncio.CancelledError from None

    async def _forward(
        self, request: web.BaseRequest, body: bytes, fault: Fault, seen: Seen
    ) -> web.StreamResponse:
        url = yarl.URL(self._upstream + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON}
        async with self._client.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as got:
            data = await got.read()
            seen.status = got.status
            kept = {k: v for k, v in got.headers.items() if k.lower() not in _HOP}
            if request.method == "HEAD":
                if size := got.headers.get("Content-Length"):
                    kept["Content-Length"] = size
                return web.Response(
                    status=got.status,
                    headers={
                        **kept,
                        **({"Content-Length": size} if size else {}),
                        **fault.headers,
                    },
                )
        return await self._send(request, got.status, kept, data, fault, seen)

    async def _send(
        self,
        request: web.BaseRequest,
        status: int,
        headers: dict[str, str],
        data: bytes,
        fault: Fault,
        seen: Seen,
    ) -> web.StreamResponse:
        announced = len(data)
        if fault.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault.lose:
            data = data[: -fault.lose]
            announced = len(data) if fault.honest else announced
        answer = web.StreamResponse(status=status, headers={**headers, **fault.headers})
        answer.content_length = announced if fault.length is None else fault.length
        await answer.prepare(request)
        end = len(data) if fault.cut is None else min(fault.cut, len(data))
        block = _BLOCK_BYTES if fault.rate is None else max(1, int(fault.rate / 20))
        for at in range(0, end, block):
            piece = data[at : min(at + block, end)]
            await answer.write(piece)
            seen.sent += len(piece)
            if fault.rate:
                await self._sleep(len(piece) / fault.rate)
        if answer.content_length != end or fault.cut is not None:
            # What was written leaves before the connection goes.
            if request.transport is not None:
                request.transport.close()
            raise asyncio.CancelledError
        await answer.write_eof()
        return answer


async def _body(request: web.BaseRequest) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    # Its `read` stops at a mebibyte.
    return await request.content.read()
