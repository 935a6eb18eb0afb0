"""A child that ends with its parent, however that ends. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def dies_with_this_process() -> Callable[[], None]:
    """For `preexec_fn` of a child that the main thread starts: the kernel kills the child when
    the thread that started it ends."""
    parent = os.getpid()

    def bind() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return bind
