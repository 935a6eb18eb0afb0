"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any


async def merged(streams: Sequence[AsyncGenerator[Any]]) -> AsyncGenerator[Any]:
    """The items of all streams as they come; the first error of one ends all. A stream is not
    asked for more while nobody takes what there is."""
    items: asyncio.Queue[Any] = asyncio.Queue(maxsize=len(streams))
    done = object()

    async def pump(stream: AsyncGenerator[Any]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await items.put(item)
        except Exception as error:  # noqa: BLE001 - raised where the items are taken
            await items.put(error)
        await items.put(done)

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
