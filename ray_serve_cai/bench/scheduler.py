"""The kernel's scheduler autogroups, which falsify a measurement on few cores.

Each session of processes is a scheduling group of its own, and vLLM's engine core spins with
`sched_yield`; on two cores a load generator or gateway in another session is starved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SWITCH = Path("/proc/sys/kernel/sched_autogroup_enabled")


@contextmanager
def autogroups_off() -> Iterator[str]:
    """Off inside the block, then as before; yields one sentence on whether that worked."""
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
