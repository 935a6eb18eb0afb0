"""What the processes of a replica do with their standard input: read an order, and die with it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from io import FileIO
from typing import Any, NoReturn

WORKSPACE_VARIABLE = "CAI_WORKSPACE"


def read_exactly(file: FileIO, count: int) -> bytes:
    """That many bytes of an unbuffered file; fewer at its end."""
    words = b""
    while len(words) < count and (more := file.read(count - len(words))):
        words += more
    return words


def die() -> NoReturn:
    """End this process group, and remove its workspace: whoever would have done that is gone."""
    if folder := os.environ.get(WORKSPACE_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)
    raise AssertionError


def watch_orders(
    orders: FileIO,
    loop: asyncio.AbstractEventLoop,
    take: Callable[[dict[str, Any]], None],
    orphaned: Callable[[], None],
) -> None:
    """In a thread of its own, since loading a model can keep the event loop busy for minutes."""

    def watch() -> None:
        for line in orders:
            loop.call_soon_threadsafe(take, json.loads(line))
        try:
            orphaned()
        finally:
            die()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
