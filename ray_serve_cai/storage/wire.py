"""One HTTP connection for each thread, its answers read into one buffer.

For objects of some kilobytes the standard library's client takes half the processor time of
urllib3, and for large ones it saves a copy.
"""

from __future__ import annotations

import http.client
import io
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.attempts import Broken

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
# An answer of which less comes in this time has broken off, as one of which nothing comes.
SLOW_SECONDS = 60.0
SLOW_BYTES = 60 * 2**10
_BUFFER_BYTES = 2**20


class Wire(threading.local):
    """A thread's connection to one server. `context` is for https. What breaks is `Broken`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._connection: http.client.HTTPConnection | None = None
        self._server = ("", "")
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The answer; its connection is used again if all of it is read inside the block."""
        read = False
        try:
            answer = self._ask(url, headers)
            yield answer
            read = answer.isclosed()
        finally:
            if not read:
                self._close()

    def blocks(self, answer: http.client.HTTPResponse, size: int) -> Iterator[memoryview]:
        """`size` bytes in blocks, each valid until the next is asked for."""
        while size:
            try:
                count = answer.readinto(self._buffer[: min(size, _BUFFER_BYTES)])
            except (OSError, http.client.HTTPException) as error:
                raise Broken(type(error).__name__) from error
            if not count:
                raise Broken(f"the last {size} bytes did not come")
            size -= count
            yield self._buffer[:count]

    def _ask(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        used_before = self._connection is not None
        try:
            connection = self._connect(parts.scheme, parts.netloc)
            connection.request("GET", f"{parts.path}?{parts.query}", headers=dict(headers))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._close()
            if used_before and isinstance(error, ConnectionError):
                # The server has closed it between two requests, as it may.
                return self._ask(url, headers)
            if isinstance(error, ssl.SSLCertVerificationError):
                said = f"{parts.netloc}: {error.verify_message}"
                raise StorageError("CAI-STORAGE-002", said) from error
            # Its text may have the signed URL.
            raise Broken(type(error).__name__) from error

    def _connect(self, scheme: str, server: str) -> http.client.HTTPConnection:
        if self._connection is None or self._server != (scheme, server):
            self._close()
            self._connection = self._new(scheme, server)
            self._server = (scheme, server)
        return self._connection

    def _new(self, scheme: str, server: str) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection
        if scheme == "https":
            made = http.client.HTTPSConnection(
                server, timeout=CONNECT_SECONDS, context=self._context
            )
        else:
            made = http.client.HTTPConnection(server, timeout=CONNECT_SECONDS)
        made.response_class = _Answer
        made.connect()
        made.sock.settimeout(READ_SECONDS)
        # For when it connects again by itself, after an answer with `Connection: close`.
        made.timeout = READ_SECONDS
        return made

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Answer(http.client.HTTPResponse):
    """One that a server cannot draw out for ever with a byte now and then."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.fp: io.BufferedReader = io.BufferedReader(_Paced(self.fp.detach()))


class _Paced(io.RawIOBase):
    """Raises `TimeoutError` once less than `SLOW_BYTES` came in `SLOW_SECONDS`."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._since, self._came = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        self._came += count or 0
        now = time.monotonic()
        if now - self._since > SLOW_SECONDS:
            if self._came < SLOW_BYTES:
                raise TimeoutError(f"{self._came} bytes in {SLOW_SECONDS:.0f} s")
            self._since, self._came = now, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
