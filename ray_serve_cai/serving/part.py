"""A piece of a replica's work in a process of its own.

`files`: another node's hook and download. `teardown`: the last hooks of a replica whose engine
host is gone.
"""

from __future__ import annotations

import os
from typing import Any

from ray_serve_cai.callbacks import Point
from ray_serve_cai.callbacks.node_init import download_of, prepare_files
from ray_serve_cai.errors import ModelError
from ray_serve_cai.serving.child import Answers, Turn, answer_of, serve, start_child
from ray_serve_cai.serving.hooks import ReplicaRunner, plain
from ray_serve_cai.serving.job import ReplicaJob
from ray_serve_cai.serving.workspace import Workspace


async def run_part(
    job: ReplicaJob,
    replica: str,
    order: dict[str, Any],
    *,
    timeout: float | None = None,
    turns: set[Turn] | None = None,
) -> dict[str, Any]:
    """Run the piece that `order` names on this node; its result. Raises as `answer_of`."""
    workspace = await Workspace.make(job, replica)
    try:
        with open(workspace.log_path, "ab") as output:
            process = await start_child(__name__, workspace.environment, output)
        order = {**order, "job": job.to_json()}
        where = f'on node {order["node"]} for model "{job.model}"'
        return await answer_of(process, order, where=where, timeout=timeout, turns=turns)
    finally:
        workspace.remove()


async def _part(order: dict[str, Any], answers: Answers) -> dict[str, Any]:
    job = ReplicaJob.from_json(order["job"])
    os.environ.update(job.env)
    hooks = ReplicaRunner(job, order["node"], answers.hook, answers.turn)
    return await (_files if order["part"] == "files" else _teardown)(hooks, job, order)


async def _files(hooks: ReplicaRunner, job: ReplicaJob, order: dict[str, Any]) -> dict[str, Any]:
    hooks.ctx.run_init_node = order["run_init_node"]
    hooks.ctx.custom_data = order["custom_data"]
    hooks.ctx.worker_node_download_model = order["mode"]
    hooks.ctx.runtime_env = {"env_vars": order["env"]}
    os.environ.update(order["env"])
    download = download_of(job.source, job.storage_options)
    done = await prepare_files(hooks, download, order["mode"])
    return {"folder": done.folder, "custom_data": plain(done.custom_data)}


async def _teardown(
    hooks: ReplicaRunner, job: ReplicaJob, order: dict[str, Any]
) -> dict[str, Any]:
    for point, callbacks in order["left"]:
        error = ModelError("CAI-MODEL-002", order["error"]) if point == Point.FAILED else None
        await hooks.run(Point(point), error, callbacks)
    return {}


if __name__ == "__main__":
    serve(_part)
