"""The engine host as its replica sees it: spawn, wait for ready, hear its pulse, stop."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_serve_cai.cluster.node import TEMP_VARIABLE
from ray_serve_cai.errors import CATALOGUE, ModelError
from ray_serve_cai.serving.job import Pulse, ReplicaJob, log_name

KILL_SECONDS = 5.0
TAIL_LINES = 12
# `(EngineCore pid=7) ERROR 11-21 12:26:18 [core.py:948] ValueError: no room`
_EXCEPTION = re.compile(r"^\([\w-]+ pid=\d+\) ERROR .*?\] (\w*(?:Error|Exception): .*)$")


class HostProcess:
    """A running `serving.host`. `pulse` is its last word, `heard` when that came (monotonic)."""

    def __init__(
        self, process: asyncio.subprocess.Process, events: int, log_path: str, temp: str
    ) -> None:
        self._process = process
        self._temp = temp
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._on_phase: Callable[[str, str], None] | None = None
        self.log_path = log_path
        self.pulse: Pulse | None = None
        self.heard = time.monotonic()
        self._reader = asyncio.create_task(self._read(events))

    @classmethod
    async def spawn(cls, job: ReplicaJob, listen_host: str, worker_id: int) -> HostProcess:
        """Start the host in a process group of its own, its output in the job's log folder."""
        log_path = _log_path(job, worker_id)
        # In the node's own temporary folder, which goes with the node whatever happens.
        base = os.environ.get(TEMP_VARIABLE) or None
        temp = await asyncio.to_thread(tempfile.mkdtemp, prefix="h-", dir=base)
        await asyncio.to_thread(_link_kernel_cache, Path(temp))
        read_end, write_end = os.pipe()
        with open(log_path, "ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ray_serve_cai.serving.host",
                str(write_end),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,
                env=_environment(job, temp),
            )
        os.close(write_end)
        host = cls(process, read_end, str(log_path), temp)
        order = {"job": job.to_json(), "listen_host": listen_host, "worker_id": worker_id}
        await host._write(order)
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

    async def stop(self, seconds: float) -> None:
        """Ask the host to drain and stop; after `seconds`, or when it is gone, end its group."""
        if self.returncode is None and seconds > 0:
            await self._write({"command": "stop"})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        self._kill_group()
        await asyncio.wait_for(self._process.wait(), KILL_SECONDS)
        self._reader.cancel()

    async def _read(self, events: int) -> None:
        reader = asyncio.StreamReader(limit=2**20)
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
                self._fail("CAI-MODEL-002", f"the engine host died ({_status(status)})\n{tail}")
        finally:
            transport.close()

    def _take(self, event: dict[str, Any]) -> None:
        self.heard = time.monotonic()
        kind = event.pop("event")
        if kind == "pulse":
            self.pulse = Pulse(**event)
        elif kind == "phase" and self._on_phase is not None:
            self._on_phase(event["phase"], event["message"])
        elif kind == "ready" and not self._ready.done():
            self._ready.set_result(event["config"])
        elif kind == "failed" and not self._ready.done():
            cause = _cause_in_log(self.log_path)
            self._fail(event["code"], f"{event['message']}{cause}")

    def _fail(self, code: str, message: str) -> None:
        known = code if code in CATALOGUE else "CAI-MODEL-002"
        self._ready.set_exception(ModelError(known, message))

    async def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            await self._process.stdin.drain()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self._temp, ignore_errors=True)


def _environment(job: ReplicaJob, temp: str) -> dict[str, str]:
    environment = dict(os.environ)
    for name in ("TMPDIR", "VLLM_RPC_BASE_PATH", "SMG_ZMQ_SOCKET_DIR"):
        environment[name] = temp
    # vLLM shows its process titles and logs as if on a terminal unless told otherwise.
    environment.setdefault("NO_COLOR", "1")
    environment["PYTHONUNBUFFERED"] = "1"
    if not job.gpu:
        # Ray leaves the variable as it is for an actor without GPUs.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if job.project:
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{job.project}{os.pathsep}{path}" if path else job.project
    return environment


def _link_kernel_cache(temp: Path) -> None:
    """Let torch's compiled kernels and headers outlive the host, where torch itself keeps them.

    Torch looks below its temporary folder (`torch._inductor.runtime.cache_dir_utils`), for headers
    even where TORCHINDUCTOR_CACHE_DIR names another place; in a fresh folder each start would
    compile for some 15 s before its first token.
    """
    try:
        name = f"torchinductor_{getpass.getuser()}"
    except (KeyError, OSError):
        name = f"torchinductor_uid_{os.getuid()}"
    cache = Path(tempfile.gettempdir()) / name
    cache.mkdir(mode=0o700, exist_ok=True)
    (temp / name).symlink_to(cache)


def _log_path(job: ReplicaJob, worker_id: int) -> Path:
    folder = Path(job.log_folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / log_name(job.model, job.revision, f"{worker_id:012x}")


def _tail(path: str) -> str:
    lines = Path(path).read_text(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _cause_in_log(path: str) -> str:
    """The first exception of the engine's own processes: it never reaches the front's error, and
    those that follow are mostly its consequences."""
    for line in Path(path).read_text(errors="replace").splitlines():
        if found := _EXCEPTION.search(line):
            return f"\n{found[1]}\nlog: {path}"
    return f"\nlog: {path}"


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
