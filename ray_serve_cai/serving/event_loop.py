"""The event loop of an engine host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec


def loop_factory(engine: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop that vLLM's own commands run its servers in; None is Python's.

    Python's leaves Nagle's algorithm on for a listening socket as vLLM makes it (protocol 0), and
    a client that acknowledges late then waits 40 ms for its first token.
    """
    if engine != "vllm" or find_spec("uvloop") is None:
        return None
    import uvloop

    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make
