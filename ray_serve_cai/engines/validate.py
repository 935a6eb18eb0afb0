"""Whether a stream keeps the contract of `engines.base`, item by item."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from ray_serve_cai.engines.base import LLMEngineOutput


class ContractError(Exception):
    """An engine broke the contract. `name` is that of the failure in `engines.conformance`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


async def validated(stream: AsyncIterator[LLMEngineOutput]) -> AsyncGenerator[LLMEngineOutput]:
    """The same items; raises `ContractError` for one after the terminal, a stream without a
    terminal, and what is no item at all. Costs a generator for each stream, so it is for tests and
    `--debug`."""
    ended = False
    try:
        async for item in stream:
            if not isinstance(item, LLMEngineOutput):
                raise ContractError("no-item", f"{type(item).__name__} is no LLMEngineOutput")
            if ended:
                raise ContractError("chunk-after-terminal", "an item follows the terminal one")
            ended = item.finish_reason is not None
            yield item
    finally:
        # Generators have it; the contract asks for no more than an iterator.
        if (close := getattr(stream, "aclose", None)) is not None:
            await close()
    if not ended:
        raise ContractError("no-terminal", "the stream ended without a finish_reason")
