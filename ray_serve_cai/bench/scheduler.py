"""What the kernel's scheduler does to a measurement on few cores, and how to keep it out.

vLLM's engine core spins with `sched_yield`. On two cores that starves a load generator, which
then sees first tokens arrive with the last ones, whoever serves them: each session of processes is
a scheduling group of its own (autogroups), and even without these a waking client waits for a
core. So while measuring the autogroups are off and this process has real-time priority.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SWITCH = Path("/proc/sys/kernel/sched_autogroup_enabled")


@contextmanager
def undisturbed() -> Iterator[str]:
    """Both inside the block, and then as before; yields one sentence on what could be done."""
    with ExitStack() as stack:
        yield f"{stack.enter_context(autogroups_off())}; {stack.enter_context(_first_in_line())}"


@contextmanager
def autogroups_off() -> Iterator[str]:
    """Off inside the block, then as before; yields whether that worked."""
    try:
        before = SWITCH.read_text().strip()
        SWITCH.write_text("0")
    except OSError as error:
        yield f"scheduler autogroups could not be switched off ({error.strerror})"
        return
    try:
        yield "scheduler autogroups off"
    finally:
        SWITCH.write_text(before)


@contextmanager
def _first_in_line() -> Iterator[str]:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield "load generator at normal priority (not root)"
        return
    try:
        yield "load generator at real-time priority"
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
