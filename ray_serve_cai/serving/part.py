"""A piece of a replica's work in a process of its own.

`files`: another node's hook and download. `teardown`: the last hooks of a replica whose engine
host is gone. Callbacks are the user's code, so neither runs inside a worker process of Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from typing import Any

from ray_serve_cai.callbacks import Point
from ray_serve_cai.callbacks.node_init import prepare_files
from ray_serve_cai.errors import CATALOGUE, CaiError, HookError, ModelError
from ray_serve_cai.serving.hooks import ReplicaRunner
from ray_serve_cai.serving.job import ReplicaJob
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
                "-m",
                "ray_serve_cai.serving.part",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                env=workspace.environment,
            )
        words = json.dumps({**order, "job": job.to_json()}).encode()
        try:
            said, _ = await asyncio.wait_for(process.communicate(words), timeout)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        workspace.remove()
    return _result(said.decode(), process.returncode)


def main() -> None:
    order = json.loads(sys.stdin.read())
    # What hooks print goes to the log; stdout is for the result alone.
    answer = os.dup(1)
    os.dup2(2, 1)
    job = ReplicaJob.from_json(order["job"])
    os.environ.update(job.env)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    result = asyncio.run(_files(job, order) if order["part"] == "files" else _teardown(job, order))
    os.write(answer, json.dumps(result).encode())


async def _files(job: ReplicaJob, order: dict[str, Any]) -> dict[str, Any]:
    hooks = ReplicaRunner(job, order["node"])
    hooks.ctx.run_init_node = order["run_init_node"]
    hooks.ctx.custom_data = order["custom_data"]
    hooks.ctx.worker_node_download_model = order["mode"]
    try:
        done = await prepare_files(hooks, job.source, order["node"], order["mode"])
        return {"folder": done.folder, "custom_data": json.loads(json.dumps(done.custom_data))}
    except Exception as error:
        log.exception("this node could not be prepared")
        code = error.code if isinstance(error, CaiError) else "CAI-MODEL-002"
        return {"code": code, "message": str(error)}


async def _teardown(job: ReplicaJob, order: dict[str, Any]) -> dict[str, Any]:
    hooks = ReplicaRunner(job, order["node"])
    for point in order["points"]:
        error = ModelError("CAI-MODEL-002", order["error"]) if point == Point.FAILED else None
        await hooks.run(Point(point), error)
    return {}


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
