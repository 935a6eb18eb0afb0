"""Saying how far a replica's download is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ray_serve_cai.storage.disk import in_words
from ray_serve_cai.storage.watch import Watch

REPORT_SECONDS = 1.0


@asynccontextmanager
async def reported(source: str, watch: Watch, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Inside the block, `say` about every second what of `source` has come."""
    saying = asyncio.create_task(_say_on(source, watch, say))
    try:
        yield
    finally:
        saying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saying


async def _say_on(source: str, watch: Watch, say: Callable[[str], None]) -> None:
    said = ""
    while True:
        words = source
        if watch.size:
            words += f": {in_words(watch.there + watch.moved)} of {in_words(watch.size)}"
        if words != said:
            say(words)
            said = words
        await asyncio.sleep(REPORT_SECONDS)
