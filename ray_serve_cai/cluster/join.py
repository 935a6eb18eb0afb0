"""`cai cluster join`: the node agent by hand, on a machine that shares no folder with the head."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from types import FrameType

from ray_serve_cai.cluster.node import own_address, ray_command
from ray_serve_cai.cluster.ports import listens, speaks
from ray_serve_cai.errors import INTERRUPTED, CaiError, ClusterError
from ray_serve_cai.plan.nodes import NodePlan
from ray_serve_cai.providers.processes import kill_marked, marks
from ray_serve_cai.providers.registry import get_provider
from ray_serve_cai.spec.base import parse_size

MEMORY_SHARE = 0.8


def join(
    address: str,
    token_file: Path | None,
    *,
    cpu: float | None,
    memory: str | None,
    gpu: int | None,
    group: str,
    node_ip: str | None,
) -> int:
    """Run Ray as a worker of the head at `address` until it ends; returns its exit status.

    What is not given is what this machine has. Raises `ClusterError` (CAI-CLUSTER-007) when
    no Ray answers at the address or no token is at hand.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not listens(host, int(port)):
        raise ClusterError("CAI-CLUSTER-007", f"nothing listens at {address}")
    if not speaks(host, int(port)):
        raise ClusterError("CAI-CLUSTER-007", f"what listens at {address} is no Ray, or held up")
    token = token_file or Path(os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    if not token.is_file():
        raise ClusterError(
            "CAI-CLUSTER-007",
            "no Ray token given",
            hint="Copy the cluster's `token` file here and pass it with --token-file.",
        )
    machine = get_provider("local").machine()
    assert machine is not None
    plan = NodePlan(
        id=f"{group}-j{uuid.uuid4().hex[:6]}",
        role="worker",
        group=group,
        cpu=machine.cpus if cpu is None else cpu,
        memory=_size(memory) if memory else int(machine.memory * MEMORY_SHARE),
        gpu=len(machine.gpus) if gpu is None else gpu,
        gpu_ids=machine.gpus if gpu is None else machine.gpus[:gpu],
    )
    with tempfile.TemporaryDirectory(prefix="cai-join-") as folder:
        return _run(plan, address, token, Path(folder), node_ip or own_address())


def _run(plan: NodePlan, address: str, token: Path, folder: Path, node_ip: str) -> int:
    environment = {
        **os.environ,
        **marks(folder, plan.id),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token.resolve()),
        "RAY_worker_niceness": "0",
        "CUDA_VISIBLE_DEVICES": ",".join(plan.gpu_ids or ()),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    environment.pop("RAY_AUTH_TOKEN", None)
    ray = subprocess.Popen(ray_command(plan, address, node_ip, None), env=environment)

    asked: list[int] = []

    def end(signum: int, _: FrameType | None) -> None:
        asked.append(signum)
        # Ray's own answer to SIGTERM is to drain for 30 s; the head notices at once as it is.
        kill_marked(folder)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, end)
    try:
        status = ray.wait()
    finally:
        kill_marked(folder)
    if asked:
        return INTERRUPTED
    return status if status >= 0 else 128 - status


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise CaiError("CAI-CLI-001", f"--memory: {error}") from error
