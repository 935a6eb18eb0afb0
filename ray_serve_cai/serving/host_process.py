"""The engine host as its replica sees it: spawn, wait for ready, hear its pulse, stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ray_serve_cai.errors import CATALOGUE, CaiError, ModelError
from ray_serve_cai.serving.child import Turn, python_command
from ray_serve_cai.serving.job import Pulse, ReplicaJob
from ray_serve_cai.serving.workspace import Workspace

log = logging.getLogger(__name__)

Others = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

KILL_SECONDS = 5.0
# The host keeps the time itself; one that cannot is ended this much later.
STOP_MARGIN_SECONDS = 2.0
TAIL_LINES = 12
LINE_BYTES = 16 * 2**20
# `(EngineCore pid=7) ERROR 11-21 12:26:18 [core.py:948] ValueError: no room`
_EXCEPTION = re.compile(r"^\([\w-]+ pid=\d+\) ERROR .*?\] (\w*(?:Error|Exception): .*)$")
# The end of a traceback that is not of this package.
_LAST_WORDS = re.compile(r"^(?!ray_serve_cai\.)[A-Za-z_][\w.]*(?:Error|Exception)\b.*$")


class HostProcess:
    """A running `serving.host`. `pulse` is its last word, `heard` when that came (monotonic)."""

    def __init__(
        self, process: asyncio.subprocess.Process, events: int, workspace: Workspace
    ) -> None:
        self._process = process
        self._workspace = workspace
        self._others: Others | None = None
        self._files: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._on_phase: Callable[[str, str], None] | None = None
        # What it has done of its shutdown, in its own words.
        self.stages: list[str] = []
        self._hook = ""
        # Turns of the teardown that the host has begun itself.
        self.turns: set[Turn] = set()
        self.log_path = workspace.log_path
        self.pulse: Pulse | None = None
        self.heard = time.monotonic()
        self._reader = asyncio.create_task(self._read(events))

    @classmethod
    async def spawn(
        cls,
        job: ReplicaJob,
        listen_host: str,
        worker_id: int,
        node: str = "",
        others: Others | None = None,
    ) -> HostProcess:
        """Start the host in a process group of its own, its output in the job's log folder.

        `others` prepares the replica's other nodes when the host asks for that.
        """
        workspace = await Workspace.make(job, f"{worker_id:012x}")
        read_end, write_end = os.pipe()
        try:
            with open(workspace.log_path, "ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *python_command("ray_serve_cai.serving.host"),
                    str(write_end),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(write_end,),
                    start_new_session=True,
                    env=workspace.environment,
                )
        except BaseException:
            os.close(read_end)
            workspace.remove()
            raise
        finally:
            os.close(write_end)
        host = cls(process, read_end, workspace)
        order = {"job": job.to_json(), "listen_host": listen_host, "worker_id": worker_id}
        host._others = others
        words = json.dumps({**order, "node": node, "others": others is not None})
        # Its length first, since the host reads without a buffer.
        await host._send(f"{len(words)}\n{words}")
        return host

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def ready(self, on_phase: Callable[[str, str], None]) -> dict[str, Any]:
        """The engine's configuration once it answers.

        Raises `ModelError` with the host's own error, or the last lines of its log when it died
        without a word.
        """
        self._on_phase = on_phase
        return await self._ready

    async def stop(self, seconds: float, error: str = "") -> None:
        """Ask the host to drain and stop within `seconds`; soon after, or when it is gone, end its
        group.

        `error`: why it must go, for the hooks, when it has failed.
        """
        if self.returncode is None and seconds > 0:
            await self._write({"command": "stop", "error": error, "seconds": seconds})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds + STOP_MARGIN_SECONDS)
        self._kill_group()
        await asyncio.wait_for(self._process.wait(), KILL_SECONDS)
        # Its last words may still be in the pipe.
        await asyncio.wait({self._reader}, timeout=KILL_SECONDS)
        self._reader.cancel()
        if self._files is not None:
            self._files.cancel()

    async def _read(self, events: int) -> None:
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(events, "rb")
        )
        try:
            async for line in reader:
                self._take(json.loads(line))
            status = await self._process.wait()
            # The front may have died alone: its engine's processes hold memory, on a GPU a lot.
            self._kill_group()
            if not self._ready.done():
                tail = _tail(self.log_path)
                where = f" in {self._hook}" if self._hook else ""
                code = "CAI-CALLBACK-001" if self._hook else "CAI-MODEL-002"
                self._fail(code, f"the engine host died{where} ({_status(status)})\n{tail}")
        except ValueError as error:
            self._kill_group()
            self._fail("CAI-MODEL-002", f"the engine host's words cannot be read: {error}")
        finally:
            transport.close()

    def _take(self, event: dict[str, Any]) -> None:
        self.heard = time.monotonic()
        kind = event.pop("event")
        if kind == "pulse":
            self.pulse = Pulse(**event)
        elif kind == "hook":
            self._hook = event["hook"]
        elif kind == "turn":
            self.turns.add((event["point"], event["callback"]))
        elif kind == "stage":
            self.stages.append(event["stage"])
        elif kind == "files":
            self._files = asyncio.create_task(self._prepare_others(event))
        elif kind == "phase" and self._on_phase is not None:
            self._on_phase(event["phase"], event["message"])
        elif kind == "ready" and not self._ready.done():
            self._ready.set_result(event["config"])
        elif kind == "failed" and not self._ready.done():
            cause = _cause_in_log(self.log_path, event["code"])
            self._fail(event["code"], f"{event['message']}{cause}")

    async def _prepare_others(self, wish: dict[str, Any]) -> None:
        assert self._others is not None
        try:
            answer: dict[str, Any] = {"results": await self._others(wish)}
        except Exception as error:
            log.exception("another node could not be prepared")
            code = error.code if isinstance(error, CaiError) else "CAI-MODEL-002"
            answer = {"code": code, "message": str(error)}
        await self._write({"command": "files", **answer})

    def _fail(self, code: str, message: str) -> None:
        known = code if code in CATALOGUE else "CAI-MODEL-002"
        if self._ready.done():
            return
        self._ready.set_exception(ModelError(known, message))

    async def _write(self, order: dict[str, Any]) -> None:
        await self._send(json.dumps(order) + "\n")

    async def _send(self, words: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(words.encode())
            await self._process.stdin.drain()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._workspace.remove()


def _tail(path: str) -> str:
    lines = Path(path).read_text(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _cause_in_log(path: str, code: str) -> str:
    """The first exception of the engine's own processes: it never reaches the front's error, and
    those that follow are mostly its consequences. Of a program that ended, its last one."""
    lines = Path(path).read_text(errors="replace").splitlines()
    for line in lines:
        if found := _EXCEPTION.search(line):
            return f"\n{found[1]}\nlog: {path}"
    ended = code == "CAI-ENGINE-005"
    died_of = [line for line in lines if ended and _LAST_WORDS.match(line)]
    return "".join(f"\n{line}" for line in [*died_of[-1:], f"log: {path}"])


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
