"""Reading ranges of objects through fsspec, one attempt after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ray_serve_cai.storage.attempts import Broken, judged, retried
from ray_serve_cai.storage.listing import Remote
from ray_serve_cai.storage.stores import Store

# A sink keeps no view of the block: its memory is used again.
Sink = Callable[[bytes | memoryview], None]

# fsspec holds what it reads in memory, once or twice.
_STEP_BYTES = 4 * 2**20


class Reader(Protocol):
    """Reads bytes `start` to `stop` of an object into `sink`, in order.

    Raises `Broken`, possibly midway, when another attempt may do better, and `StorageError` when
    none will.
    """

    def read(self, remote: Remote, start: int, stop: int, sink: Sink) -> None: ...


class FsspecReader:
    """By the store's own library."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, remote: Remote, start: int, stop: int, sink: Sink) -> None:
        for at in range(start, stop, _STEP_BYTES):
            self._read(remote, at, min(at + _STEP_BYTES, stop), sink)

    def _read(self, remote: Remote, start: int, stop: int, sink: Sink) -> None:
        try:
            data = self._store.system.cat_file(remote.path, start=start, end=stop)
        except Exception as error:
            # Each package has exceptions of its own.
            raise judged(remote.path, error) from error
        if len(data) != stop - start:
            raise Broken(f"{len(data)} bytes came instead of {stop - start}")
        sink(data)


def read_range(
    reader: Reader, remote: Remote, start: int, stop: int, sink: Sink, stopped: threading.Event
) -> None:
    """All bytes of the range; an attempt goes on where the one before broke off.

    Raises as `retried` does, with the object's name.
    """
    at = start

    def take(block: bytes | memoryview) -> None:
        nonlocal at
        sink(block)
        at += len(block)

    retried(remote.path, lambda: reader.read(remote, at, stop, take), stopped)
