"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any


async def merged(streams: Sequence[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    """The items of all streams as they come; the first error of one ends all."""
    items: asyncio.Queue[Any] = asyncio.Queue()
    done = object()

    async def pump(stream: AsyncIterator[Any]) -> None:
        try:
            async for item in stream:
                items.put_nowait(item)
        except Exception as error:  # noqa: BLE001 - raised where the items are taken
            items.put_nowait(error)
        items.put_nowait(done)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        left = len(pumps)
        while left:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            if item is done:
                left -= 1
            else:
                yield item
    finally:
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
