"""What a Cloudera AI pod is like from inside, as far as a node of Ray must know.

Variables and limits: docs/cloudera-ai.md. Outside such a pod `CDSW_ENGINE_ID` is not set.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from ray_serve_cai.plan.nodes import BEAT_SECONDS, HEALTH_VARIABLE, NodePlan
from ray_serve_cai.spec.base import rounded_size

PORT_VARIABLE = "CDSW_APP_PORT"
FRONT_DOOR_MODULE = "ray_serve_cai.serving.front_door"
DOOR_PAUSE_SECONDS = 1.0

# Ray's own numbers: the share of memory that its object store takes, and the least it starts with.
STORE_SHARE = 0.3
STORE_LEAST = 80 * 1024**2
# What vLLM's and NCCL's own segments need beside the store is left to them.
SHARED_SHARE = 0.8


def pod_memory() -> int:
    """Bytes of memory that this pod was given, else what the machine has."""
    given = os.environ.get("CDSW_MEMORY_MB", "")
    return int(given) * 1024**2 if given.isdigit() else int(psutil.virtual_memory().total)


def shared_memory() -> int:
    """Free bytes of /dev/shm; 0 where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def object_store(plan: NodePlan, memory: int, shared: int) -> tuple[int, str]:
    """Bytes for Ray's object store and, where shared memory is too small for it, a warning.

    A store larger than /dev/shm lies on the pod's disk and is slow. `memory` and `shared` in
    bytes. A size given in the spec stays.
    """
    wanted = plan.object_store_memory or int((plan.memory or memory) * STORE_SHARE)
    if wanted <= shared:
        return wanted, ""
    size = plan.object_store_memory or max(int(shared * SHARED_SHARE), STORE_LEAST)
    return size, (
        f"/dev/shm has {rounded_size(shared)} free and Ray's object store would take "
        f"{rounded_size(wanted)}: it gets {rounded_size(size)}; raise the project setting "
        "Shared Memory Limit (shared_memory_limit), which counts for new workloads"
    )


def no_proxy(environment: Mapping[str, str], *addresses: str) -> dict[str, str]:
    """Variables that keep calls to these addresses off the site's proxy, which cannot reach pods.

    Downloads still go through it. Ray's own gRPC takes no proxy unless told to.
    """
    if not any(name.lower() in ("http_proxy", "https_proxy") for name in environment):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = dict.fromkeys([*known.split(","), "localhost", "127.0.0.1", *addresses])
    value = ",".join(name for name in names if name)
    return {"no_proxy": value, "NO_PROXY": value}


def answer_health_checks() -> None:
    """Be what the platform's check of this pod asks for, until this process ends.

    An Application counts as running only once `/` on its port answers with status 200.
    """
    kind, port = os.environ.get(HEALTH_VARIABLE), os.environ.get(PORT_VARIABLE, "")
    if kind == "front-door":
        folder = os.environ["CAI_CLUSTER_FOLDER"]
        FrontDoor([folder]).start()
    elif kind == "plain" and port.isdigit():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), _Healthy)
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()


class FrontDoor:
    """Keeps the process of the front door running; `arguments` are those of its module."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", FRONT_DOOR_MODULE, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="front-door", daemon=True)

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        self._keeper.start()

    def stop(self) -> None:
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
        self._keeper.join()

    def _keep(self) -> None:
        while self._process is not None:
            status = self._process.wait()
            if self._ended.wait(DOOR_PAUSE_SECONDS):
                return
            print(f"the front door ended with status {status}; starting it again", file=sys.stderr)
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)


class Heartbeat:
    """Touches the node's row as long as its agent lives, for those who cannot see its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        ended = threading.Event()
        while not ended.wait(BEAT_SECONDS):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                # `down` clears the folder before it ends the last agent.
                continue


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"a node of a cai cluster\n"
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The platform asks every few seconds."""
