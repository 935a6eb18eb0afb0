"""Nodes as processes on this machine, one node agent each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.plan.cluster import Machine
from ray_serve_cai.plan.nodes import AGENT_MODULE, PLAN_VARIABLE, NodePlan
from ray_serve_cai.providers.base import LaunchContext, Node, Provider
from ray_serve_cai.providers.processes import kill_marked, marked, marks, node_of, wait_ended

STOP_SECONDS = 15.0
NVIDIA_SECONDS = 30.0


class LocalProvider(Provider):
    """A node's processes are found by the mark that its agent's environment carries."""

    def machine(self) -> Machine:
        memory = psutil.virtual_memory().total
        return Machine(os.cpu_count() or 1, min(memory, _cgroup_limit() or memory), _gpus())

    def launch(self, nodes: Sequence[NodePlan], context: LaunchContext) -> None:
        for node in nodes:
            self._launch(node, context)

    def list(self, folder: Path) -> Sequence[Node]:
        processes = list(marked(folder))
        agents = {node_of(p) for p in processes if _is_agent(p)} - {""}
        rest = {node_of(p) for p in processes} - agents - {""}
        orphans = [Node(node_id, "lost", "its agent is gone") for node_id in sorted(rest)]
        return [*(Node(node_id, "running") for node_id in sorted(agents)), *orphans]

    def terminate(self, folder: Path, ids: Sequence[str]) -> None:
        agents = [
            process for node_id in ids for process in marked(folder, node_id) if _is_agent(process)
        ]
        for agent in agents:
            _signal(agent)
        wait_ended(agents, STOP_SECONDS)
        for node_id in ids:
            kill_marked(folder, node_id)

    def _launch(self, node: NodePlan, context: LaunchContext) -> None:
        # What an agent that was killed left behind would keep the node's ports and memory.
        kill_marked(context.folder, node.id)
        environment = {
            **os.environ,
            **context.environment,
            **marks(context.folder, node.id),
            PLAN_VARIABLE: node.to_json(),
        }
        # Ray would take the token in it before that of our file.
        environment.pop("RAY_AUTH_TOKEN", None)
        with open(context.logs / f"node-{node.id}.log", "ab") as output:
            subprocess.Popen(
                [sys.executable, "-m", AGENT_MODULE, str(context.folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )


def _is_agent(process: psutil.Process) -> bool:
    try:
        return AGENT_MODULE in process.cmdline()
    except psutil.Error:
        return False


def _signal(process: psutil.Process) -> None:
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return


def _gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip() not in ("", "-1"))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError("CAI-CLUSTER-005", "nvidia-smi does not answer") from error
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit())


def _cgroup_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
