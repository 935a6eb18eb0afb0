"""SIGINT and SIGTERM around what they must not break in two, and around Ray."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Deliver them after the block, each once. In another thread than the main one, where nothing
    interrupts, they are not held back.

    An exception in the midst of a large import can be swallowed by a bare `except` of the code
    that is imported. A signal mask would not do: another thread could take the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    try:
        with kept():
            for ending in ENDING:
                signal.signal(ending, lambda number, _: came.append(number))
            yield
    finally:
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


@contextmanager
def passed_over() -> Iterator[None]:
    """Go on to the end of the block whatever is asked meanwhile; what it starts is not deaf."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with kept():
        for number in ENDING:
            signal.signal(number, lambda *_: None)
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Put this process's handlers back after the block: `ray.init` and `ray.shutdown` leave
    others, with which a signal would end the command at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
