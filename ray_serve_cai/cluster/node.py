"""The node agent: the one program that every provider launches, on head and workers alike.

`python -m ray_serve_cai.cluster.node FOLDER`, its `NodePlan` in the environment variable
`CAI_NODE_PLAN` or, where one call of a platform started several nodes, in the file that the
provider wrote for this pod. It finds its address, writes its row into the cluster's folder,
waits for the head's row, runs `ray start --block`, and ends with Ray's exit status. SIGTERM ends
the node and everything it started.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ray_serve_cai.cluster.pod import (
    Heartbeat,
    answer_health_checks,
    no_proxy,
    object_store,
    pod_memory,
    shared_memory,
)
from ray_serve_cai.cluster.ports import free_port, listens, speaks
from ray_serve_cai.cluster.state import NODES
from ray_serve_cai.files import replace_text
from ray_serve_cai.plan.nodes import (
    ASSIGNMENTS,
    ENGINE_VARIABLE,
    HEAD,
    PATIENCE_VARIABLE,
    PLAN_VARIABLE,
    NodePlan,
)
from ray_serve_cai.providers.cai_library import LIMITS
from ray_serve_cai.providers.processes import kill_marked, marks

TEMP_VARIABLE = "CAI_RAY_TEMP"
# At least, whatever the launcher's patience.
HEAD_WAIT_SECONDS = 900.0
# Ray itself would try for a quarter of an hour.
SILENT_HEAD_SECONDS = 60.0
SILENT = (
    "the head at {} takes connections and says nothing for {:.0f} s: a service mesh or firewall "
    "holds up what pods say to each other"
)
# The launch call may go on that long after the first of its pods has started; NFS adds its own
# delay.
ASSIGNMENT_SECONDS = LIMITS["launch_workers"] + 120.0
POLL_SECONDS = 0.05
GCS_POLL_SECONDS = 0.02
ROLE_LABEL = "cai-role"


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        plan = own_plan(folder)
    except TimeoutError as error:
        sys.exit(f"cai node: {error}")
    # What the node starts is found by this mark; a launch of several nodes cannot give it.
    os.environ.update(marks(folder, plan.id))
    agent = Agent(folder, plan)
    signal.signal(signal.SIGTERM, lambda *_: agent.end(128 + signal.SIGTERM))
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
            "engine": os.environ.get(ENGINE_VARIABLE, ""),
            "warnings": [],
        }

    @property
    def _row_path(self) -> Path:
        return self._folder / "nodes" / f"{self._plan.id}.json"

    def run(self) -> int:
        """Ray's exit status, or 1 when the head never came."""
        temp = os.environ.get(TEMP_VARIABLE)
        self._fit_to_pod()
        Heartbeat(self._row_path).start()
        try:
            if temp:
                _make_private(Path(temp))
            address = self._head_address()
        except OSError as error:
            print(f"cai node {self._plan.id}: {error}", file=sys.stderr)
            return self._finish(1)
        command = ray_command(self._plan, address, self._row["ip"], temp, self._row["run"])
        if port := self._row.get("dashboard_port"):
            # With a port given, Ray ends rather than take another one.
            command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
        ray = subprocess.Popen(command, env=self._ray_environment(address))
        if self._plan.role == HEAD:
            # What listens elsewhere may be a mesh that accepts for it, so workers believe the row.
            while ray.poll() is None and not listens(self._row["ip"], self._row["ray_port"]):
                time.sleep(GCS_POLL_SECONDS)
        if ray.poll() is None:
            self._write("running")
        return self._finish(ray.wait())

    def _fit_to_pod(self) -> None:
        """On the platform: shared memory as it is, and an answer where its health check asks."""
        if not self._row["engine"]:
            return
        size, warning = object_store(self._plan, pod_memory(), shared_memory())
        self._plan = replace(self._plan, object_store_memory=size)
        if warning:
            self._row["warnings"].append(warning)
            print(f"cai node {self._plan.id}: {warning}", file=sys.stderr)
        answer_health_checks()

    def end(self, status: int) -> None:
        """Stop the node at once: Ray keeps nothing that an orderly stop would save, and its own
        SIGTERM waits 30 s for a drain."""
        self._finish(status)
        os._exit(status)

    def _finish(self, status: int) -> int:
        kill_marked(self._folder, self._plan.id)
        self._row["exit"] = status
        # A node that was ended has no row any more, or a successor of its name has one.
        if _read(self._row_path).get("run") == self._row["run"]:
            self._write("ended")
        return status

    def _head_address(self) -> str:
        if self._plan.role == "head":
            self._row["ray_port"] = self._plan.port or free_port("")
            if self._plan.dashboard:
                self._row["dashboard_port"] = free_port("127.0.0.1")
            self._write("starting")
            return f"{self._row['ip']}:{self._row['ray_port']}"
        self._write("starting")
        patience = max(float(os.environ.get(PATIENCE_VARIABLE, 0)), HEAD_WAIT_SECONDS)
        deadline = time.monotonic() + patience
        silent_since: float | None = None
        while (now := time.monotonic()) < deadline:
            row = _read(self._folder / "nodes" / f"{HEAD}.json")
            if row.get("state") == "running" and listens(row["ip"], row["ray_port"]):
                address = f"{row['ip']}:{row['ray_port']}"
                if speaks(row["ip"], row["ray_port"]):
                    # A platform may restart the head by itself; its successor is another Ray.
                    self._row["head"] = row["run"]
                    return address
                silent_since = now if silent_since is None else silent_since
                if time.monotonic() - silent_since > SILENT_HEAD_SECONDS:
                    raise TimeoutError(SILENT.format(address, SILENT_HEAD_SECONDS))
            else:
                silent_since = None
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"the head did not come up within {patience:.0f} s")

    def _ray_environment(self, address: str) -> dict[str, str]:
        environment = {**os.environ, **_read(self._folder / "secrets.json").get(NODES, {})}
        environment.pop(PLAN_VARIABLE, None)
        # Ray would take the token in it before that of our file.
        environment.pop("RAY_AUTH_TOKEN", None)
        environment |= no_proxy(environment, self._row["ip"], address.rpartition(":")[0])
        if self._plan.gpu_ids is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._plan.gpu_ids)
            # nvidia-smi counts in this order, CUDA by default in another.
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return environment

    def _write(self, state: str) -> None:
        self._row["state"] = state
        replace_text(self._row_path, json.dumps(self._row, indent=1))


def own_plan(folder: Path) -> NodePlan:
    """The plan of the node that this process is to be.

    Raises `TimeoutError` when the launcher assigned none to this pod.
    """
    if given := os.environ.get(PLAN_VARIABLE):
        return NodePlan.from_json(given)
    path = folder / ASSIGNMENTS / os.environ.get(ENGINE_VARIABLE, "")
    deadline = time.monotonic() + ASSIGNMENT_SECONDS
    while time.monotonic() < deadline:
        if path.is_file():
            return NodePlan.from_json(path.read_text())
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"no plan in {path} within {ASSIGNMENT_SECONDS:.0f} s")


def ray_command(
    plan: NodePlan, address: str, ip: str, temp: str | None, run: str = "0"
) -> list[str]:
    """The `ray start` line. Resources are always explicit: in a container Ray would count the
    host's. `python -m`, since `ray` need not be on PATH."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    labels = f"cai-node={plan.id},cai-run={run},{ROLE_LABEL}={plan.role}"
    command += ["--disable-usage-stats", f"--labels={labels}"]
    command += [f"--num-cpus={_whole(plan.cpu)}", f"--num-gpus={plan.gpu}"]
    if plan.memory:
        command.append(f"--memory={plan.memory}")
    if plan.object_store_memory:
        command.append(f"--object-store-memory={plan.object_store_memory}")
    if plan.accelerator:
        command.append("--resources=" + json.dumps({f"accelerator_type:{plan.accelerator}": 1}))
    if plan.role != "head":
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
