"""A child process that does one order: the order as JSON on stdin, JSON lines back on stdout.

Callbacks are the user's code. They may end the process that they run in, hang, or write to its
stdout, so they run neither in a worker process of Ray nor in `cai` itself. The last line holds the
result; lines before it say which hook runs, so that one that ends the process can be named.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, BinaryIO, TextIO

from ray_serve_cai.errors import CATALOGUE, CaiError, HookError
from ray_serve_cai.serving.lifeline import die, read_exactly

log = logging.getLogger(__name__)

LINE_BYTES = 64 * 2**20

Turn = tuple[str, int]


class Answers:
    """The child's way back to whoever gave the order."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def hook(self, hook: str, name: str) -> None:
        """A hook begins; with empty words, it has ended."""
        self._line(hook=f"{hook} of {name}" if hook else "")

    def turn(self, point: str, callback: int) -> None:
        """It is that callback's turn at a point of the teardown."""
        self._line(turn=[point, callback])

    def result(self, **fields: Any) -> None:
        self._line(result=fields)

    def error(self, code: str, message: str) -> None:
        self._line(code=code, message=message)

    def _line(self, **fields: Any) -> None:
        self._file.write(json.dumps(fields) + "\n")


async def start_child(
    module: str, environment: Mapping[str, str], output: BinaryIO
) -> asyncio.subprocess.Process:
    """Start `module`, which calls `serve`, in a process group of its own."""
    return await asyncio.create_subprocess_exec(
        *python_command(module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=output,
        start_new_session=True,
        env=environment,
        limit=LINE_BYTES,
    )


def python_command(module: str) -> tuple[str, ...]:
    """Without the working folder on the path, which may be the project as it is now."""
    return sys.executable, "-P", "-m", module


async def answer_of(
    process: asyncio.subprocess.Process,
    order: Mapping[str, Any],
    *,
    where: str,
    timeout: float | None = None,
    turns: set[Turn] | None = None,
) -> dict[str, Any]:
    """The child's result; its process group has ended when this returns.

    `where`: node and model, for messages. `turns` is filled with the turns that the child has
    begun. Raises `HookError` with the child's own error, or with the hook that ended its process,
    and `TimeoutError` after `timeout` seconds.
    """
    try:
        last, hook = await asyncio.wait_for(_hear(process, order, turns), timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    status = await process.wait()
    if "result" in last:
        return dict(last["result"])
    if "message" in last:
        code = last["code"] if last["code"] in CATALOGUE else "CAI-CALLBACK-001"
        raise HookError(code, last["message"])
    how = f"signal {-status}" if status < 0 else f"status {status}"
    raise HookError(
        "CAI-CALLBACK-001", f"{hook or 'a callback'} ended its process ({how}) {where}"
    )


def serve(work: Callable[[dict[str, Any], Answers], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """The child's `main`: do the order that comes, answer, and end."""
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)
    order = json.loads(read_exactly(orders, int(orders.readline())))
    # Until somebody closes it: then nobody waits for the answer any more.
    threading.Thread(target=lambda: (orders.read(), die()), daemon=True).start()
    # What hooks print goes to the log; stdout is for the answer alone.
    answers = Answers(os.fdopen(os.dup(1), "w", buffering=1))
    os.dup2(2, 1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        answers.result(**asyncio.run(work(order, answers)))
    except Exception as error:
        # A hook's traceback is in the log already, without the secrets of its arguments.
        log.error("the order failed", exc_info=not isinstance(error, HookError))
        answers.error(error.code if isinstance(error, CaiError) else "CAI-MODEL-002", str(error))
    # At once: a hook that hangs in a thread would keep the process.
    logging.shutdown()
    os._exit(0)


async def _hear(
    process: asyncio.subprocess.Process, order: Mapping[str, Any], turns: set[Turn] | None
) -> tuple[dict[str, Any], str]:
    assert process.stdin is not None
    assert process.stdout is not None
    words = json.dumps(order).encode()
    # A process that dies at once is told of by its status.
    with contextlib.suppress(ConnectionError):
        process.stdin.write(f"{len(words)}\n".encode() + words)
        await process.stdin.drain()
    last: dict[str, Any] = {}
    hook = ""
    async for line in process.stdout:
        last = json.loads(line)
        hook = last.get("hook", hook)
        if turns is not None and "turn" in last:
            turns.add((last["turn"][0], last["turn"][1]))
    return last, hook
