"""The node agent: the one program that every provider launches, on head and workers alike.

`python -m ray_serve_cai.cluster.node FOLDER`, its `NodePlan` in the environment variable
`CAI_NODE_PLAN`. It finds its address, writes its row into the cluster's folder, waits for the
head's row, runs `ray start --block`, and ends with Ray's exit status. SIGTERM ends the node and
everything it started.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from ray_serve_cai.cluster.ports import free_port
from ray_serve_cai.plan.nodes import HEAD, PLAN_VARIABLE, NodePlan
from ray_serve_cai.providers.processes import kill_marked

TEMP_VARIABLE = "CAI_RAY_TEMP"
HEAD_WAIT_SECONDS = 900.0
POLL_SECONDS = 0.05


def main() -> None:
    folder = Path(sys.argv[1])
    agent = Agent(folder, NodePlan.from_json(os.environ[PLAN_VARIABLE]))
    signal.signal(signal.SIGTERM, lambda *_: agent.end(128 + signal.SIGTERM))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(agent.run())


class Agent:
    """Runs Ray for one node. The row in the folder is the agent's word to everybody else."""

    def __init__(self, folder: Path, plan: NodePlan) -> None:
        self._folder = folder
        self._plan = plan
        self._row: dict[str, Any] = {
            "id": plan.id,
            "role": plan.role,
            "group": plan.group,
            "cpu": plan.cpu,
            "gpu": plan.gpu,
            "memory": plan.memory,
            "state": "starting",
            "host": socket.gethostname(),
            "ip": own_address(),
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "run": uuid.uuid4().hex[:8],
        }

    def run(self) -> int:
        """Ray's exit status, or 1 when the head never came."""
        temp = os.environ.get(TEMP_VARIABLE)
        try:
            if temp:
                _make_private(Path(temp))
            address = self._head_address()
        except OSError as error:
            print(f"cai node {self._plan.id}: {error}", file=sys.stderr)
            return self._finish(1)
        command = ray_command(self._plan, address, self._row["ip"], temp, self._row["run"])
        ray = subprocess.Popen(command, env=self._ray_environment())
        self._write("running")
        return self._finish(ray.wait())

    def end(self, status: int) -> None:
        """Stop the node at once: Ray keeps nothing that an orderly stop would save, and its own
        SIGTERM waits 30 s for a drain."""
        self._finish(status)
        os._exit(status)

    def _finish(self, status: int) -> int:
        kill_marked(self._folder, self._plan.id)
        self._row["exit"] = status
        if (self._folder / "nodes").is_dir():
            self._write("ended")
        return status

    def _head_address(self) -> str:
        if self._plan.role == "head":
            self._row["ray_port"] = self._plan.port or free_port("")
            self._write("starting")
            return f"{self._row['ip']}:{self._row['ray_port']}"
        self._write("starting")
        deadline = time.monotonic() + HEAD_WAIT_SECONDS
        while time.monotonic() < deadline:
            row = _read(self._folder / "nodes" / f"{HEAD}.json")
            if row.get("state") == "running" and listens(row["ip"], row["ray_port"]):
                return f"{row['ip']}:{row['ray_port']}"
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"the head did not come up within {HEAD_WAIT_SECONDS:.0f} s")

    def _ray_environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop(PLAN_VARIABLE, None)
        if self._plan.gpu_ids is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._plan.gpu_ids)
            # nvidia-smi counts in this order, CUDA by default in another.
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return environment

    def _write(self, state: str) -> None:
        self._row["state"] = state
        path = self._folder / "nodes" / f"{self._plan.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(self._row, indent=1))
        os.replace(partial, path)


def ray_command(
    plan: NodePlan, address: str, ip: str, temp: str | None, run: str = "0"
) -> list[str]:
    """The `ray start` line. Resources are always explicit: in a container Ray would count the
    host's. `python -m`, since `ray` need not be on PATH."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--disable-usage-stats", f"--labels=cai-node={plan.id},cai-run={run}"]
    command += [f"--num-cpus={_whole(plan.cpu)}", f"--num-gpus={plan.gpu}"]
    if plan.memory:
        command.append(f"--memory={plan.memory}")
    if plan.object_store_memory:
        command.append(f"--object-store-memory={plan.object_store_memory}")
    if plan.accelerator:
        command.append("--resources=" + json.dumps({f"accelerator_type:{plan.accelerator}": 1}))
    if plan.role == "worker":
        command += [f"--address={address}", f"--node-ip-address={ip}"]
        # In one folder, nodes of one machine that start at once take each other's socket names.
        return [*command, f"--temp-dir={temp}/{uuid.uuid4().hex[:3]}"] if temp else command
    command += ["--head", f"--port={address.rsplit(':', 1)[1]}", f"--node-ip-address={ip}"]
    # Ray's client server cannot be switched off, and its usual port would clash with another head.
    command.append(f"--ray-client-server-port={free_port('')}")
    command += ["--no-monitor", f"--include-dashboard={str(plan.dashboard).lower()}"]
    return [*command, f"--temp-dir={temp}/r"] if temp else command


def own_address() -> str:
    """This machine's address as others reach it: the platform's word, else the address that
    routes outwards, else loopback."""
    if given := os.environ.get("CAI_NODE_IP") or os.environ.get("CDSW_IP_ADDRESS"):
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only asks for the route.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _make_private(folder: Path) -> None:
    """Ray opens its own temporary folder to everybody; nobody else gets as far as that.

    Raises `PermissionError` when another user has made a folder of this name.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)


def _whole(cpus: float) -> int:
    """Ray's command line takes whole CPUs; a node of half a CPU offers one."""
    return max(int(cpus), 1) if cpus else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


if __name__ == "__main__":
    main()
