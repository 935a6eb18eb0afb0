"""A piece of a replica's work in a process of its own.

`files`: another node's hook and download. `teardown`: the last hooks of a replica whose engine
host is gone. Callbacks are the user's code, so neither runs inside a worker process of Ray.
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
from typing import Any

from ray_serve_cai.callbacks import Point
from ray_serve_cai.callbacks.node_init import prepare_files
from ray_serve_cai.errors import CATALOGUE, CaiError, HookError, ModelError
from ray_serve_cai.serving.hooks import ReplicaRunner, plain
from ray_serve_cai.serving.job import ReplicaJob
from ray_serve_cai.serving.lifeline import die, read_exactly
from ray_serve_cai.serving.workspace import Workspace

log = logging.getLogger(__name__)


async def run_part(
    job: ReplicaJob, replica: str, order: dict[str, Any], timeout: float | None = None
) -> dict[str, Any]:
    """Run the piece that `order` names on this node; its result.

    Raises `HookError` with the process's own error, `TimeoutError` after `timeout` seconds.
    """
    workspace = await Workspace.make(job, replica)
    try:
        with open(workspace.log_path, "ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Without the working folder on the path, which may be the project as it is now.
                "-P",
                "-m",
                "ray_serve_cai.serving.part",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                env=workspace.environment,
            )
        try:
            said = await asyncio.wait_for(_ask(process, {**order, "job": job.to_json()}), timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        workspace.remove()
    return _result(said.decode(), await process.wait())


def main() -> None:
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)
    order = json.loads(read_exactly(orders, int(orders.readline())))
    # Until somebody closes it: then nobody waits for the answer any more.
    threading.Thread(target=lambda: (orders.read(), die()), daemon=True).start()
    # What hooks print goes to the log; stdout is for the result alone.
    answer = os.dup(1)
    os.dup2(2, 1)
    job = ReplicaJob.from_json(order["job"])
    os.environ.update(job.env)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    result = asyncio.run(_files(job, order) if order["part"] == "files" else _teardown(job, order))
    with os.fdopen(answer, "w") as file:
        json.dump(result, file)
    # At once: a hook that hangs in a thread would keep the process.
    logging.shutdown()
    os._exit(0)


async def _files(job: ReplicaJob, order: dict[str, Any]) -> dict[str, Any]:
    hooks = ReplicaRunner(job, order["node"])
    hooks.ctx.run_init_node = order["run_init_node"]
    hooks.ctx.custom_data = order["custom_data"]
    hooks.ctx.worker_node_download_model = order["mode"]
    hooks.ctx.runtime_env = {"env_vars": order["env"]}
    os.environ.update(order["env"])
    try:
        done = await prepare_files(hooks, job.source, order["node"], order["mode"])
        return {"folder": done.folder, "custom_data": plain(done.custom_data)}
    except Exception as error:
        log.error("this node could not be prepared", exc_info=not isinstance(error, HookError))
        code = error.code if isinstance(error, CaiError) else "CAI-MODEL-002"
        return {"code": code, "message": str(error)}


async def _teardown(job: ReplicaJob, order: dict[str, Any]) -> dict[str, Any]:
    hooks = ReplicaRunner(job, order["node"])
    for point in order["points"]:
        error = ModelError("CAI-MODEL-002", order["error"]) if point == Point.FAILED else None
        await hooks.run(Point(point), error)
    return {}


async def _ask(process: asyncio.subprocess.Process, order: dict[str, Any]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    words = json.dumps(order).encode()
    # A process that dies at once is told of by its status.
    with contextlib.suppress(ConnectionError):
        process.stdin.write(f"{len(words)}\n".encode() + words)
        await process.stdin.drain()
    return await process.stdout.read()


def _result(said: str, status: int | None) -> dict[str, Any]:
    if not said:
        raise HookError("CAI-CALLBACK-001", f"its process ended with status {status}")
    result: dict[str, Any] = json.loads(said)
    if "message" in result:
        code = result["code"] if result["code"] in CATALOGUE else "CAI-CALLBACK-001"
        raise HookError(code, result["message"])
    return result


if __name__ == "__main__":
    main()
