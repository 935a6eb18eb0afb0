"""A `cai` command in a process of its own, for callers that must stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from typing import Any

from ray_serve_cai.errors import (
    CATALOGUE,
    CaiError,
    ClusterError,
    EngineError,
    HookError,
    ModelError,
    PlanError,
    SpecError,
    StateError,
    StorageError,
)

log = logging.getLogger(__name__)

# How long a command may undo what it began, once the caller has given up.
UNDO_SECONDS = 120.0
KINDS: dict[str, type[CaiError]] = {
    "SPEC": SpecError,
    "PLAN": PlanError,
    "CLUSTER": ClusterError,
    "STATE": StateError,
    "MODEL": ModelError,
    "CALLBACK": HookError,
    "ENGINE": EngineError,
    "STORAGE": StorageError,
}


async def run_cai(*words: str, given: str | None = None) -> dict[str, Any]:
    """The object that `cai WORDS --json` prints; `given` is its stdin, where secrets may be.

    Raises the `CaiError` that the command met. After a cancellation the command undoes what it
    began before this returns.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ray_serve_cai", *words, "--json"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A Ctrl-C reaches the caller, who cancels; the command must not hear it twice.
        start_new_session=True,
    )
    try:
        out, _ = await process.communicate((given or "").encode())
    except asyncio.CancelledError:
        await _give_up(process)
        raise
    return _reply(words, process.returncode, out)


async def _give_up(process: asyncio.subprocess.Process) -> None:
    """As at a Ctrl-C."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), UNDO_SECONDS)
        except TimeoutError:
            log.warning("cai did not end within %g s and was killed", UNDO_SECONDS)
            process.kill()
            await process.wait()


def _reply(words: tuple[str, ...], status: int | None, out: bytes) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(out)
    except ValueError as error:
        ended = f"cai {' '.join(words[:2])} ended with status {status} and without a reply"
        raise CaiError("CAI-BUG-001", ended) from error
    if failure := data.get("error"):
        code = failure["code"] if failure["code"] in CATALOGUE else "CAI-BUG-001"
        kind = KINDS.get(code.split("-")[1], CaiError)
        raise kind(code, failure["message"], hint=failure["hint"], exit=status)
    return data
