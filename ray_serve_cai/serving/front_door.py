"""The one web port of a Cloudera AI workload: gateway, status page and Ray's dashboard behind it.

`python -m ray_serve_cai.serving.front_door CLUSTER_FOLDER [--port N] [--name NAME] [--public]`.
HAProxy owns the port from the first moment, before there is a cluster; this process keeps it and
the status server alive and leads them to the cluster's gateway, wherever that is. It ends with
whoever started it, at once on SIGTERM, and takes both with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ray_serve_cai.cluster.pod import PORT_VARIABLE
from ray_serve_cai.cluster.ports import is_taken
from ray_serve_cai.cluster.state import ClusterState
from ray_serve_cai.errors import CaiError, ClusterError
from ray_serve_cai.plan.nodes import PUBLIC_VARIABLE
from ray_serve_cai.serving.haproxy import HOST, HAProxy
from ray_serve_cai.serving.orphan import dies_with_this_process
from ray_serve_cai.serving.target import Target, read_target

READONLY_VARIABLE = "CDSW_READONLY_PORT"
STATUS_MODULE = "ray_serve_cai.serving.status_page"
TICK_SECONDS = 0.25
# What a door that was killed a moment ago leaves lets go of the port within that time.
PORT_SECONDS = 2.0
START_SECONDS = 10.0
RESTART_SECONDS = 1.0


def main() -> int:
    """The exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    try:
        ClusterState.at(options.folder.absolute())
        port = options.port or _port_of_platform()
        public = options.public or bool(os.environ.get(PUBLIC_VARIABLE))
        name = options.name or options.folder.absolute().name
        FrontDoor(options.folder.absolute(), port, name, public=public).run()
    except CaiError as error:
        print(f"{error.code}: {error.message}\n{error.hint}", file=sys.stderr)
        return error.exit
    return 0


class FrontDoor:
    """`public` is for a port without a login in front of it."""

    def __init__(self, folder: Path, port: int, name: str, *, public: bool) -> None:
        self._folder = folder
        self._port = port
        self._public = public
        # Not $TMPDIR, which may be long: paths of Unix sockets end at 107 bytes.
        self._own = Path(tempfile.mkdtemp(prefix="cai-door-", dir="/tmp"))
        self._proxy = HAProxy(self._own, port)
        self._page_command = [sys.executable, "-m", STATUS_MODULE, str(folder), name]
        self._page_command += [str(self._proxy.page_socket), *(["--public"] if public else [])]
        self._page: subprocess.Popen[bytes] | None = None
        self._page_due = self._proxy_due = 0.0
        self._target: Target | None = None

    def run(self) -> None:
        """Returns when this process has lost its parent.

        Raises `ClusterError`: CAI-DOOR-001 for a port that is taken, CAI-DOOR-002 when HAProxy
        does not start.
        """
        parent = os.getppid()
        try:
            _wait_for_port(self._port)
            self._proxy.start()
            self._wait_for_proxy()
            while os.getppid() == parent:
                self._revive()
                self._follow()
                time.sleep(TICK_SECONDS)
        finally:
            self._proxy.kill()
            if self._page is not None:
                self._page.kill()
                self._page.wait()
            shutil.rmtree(self._own, ignore_errors=True)

    def _wait_for_proxy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._proxy.ready():
            if not self._proxy.runs() or time.monotonic() > deadline:
                raise ClusterError(
                    "CAI-DOOR-002", f"HAProxy does not take port {self._port} on {HOST}"
                )
            time.sleep(0.01)

    def _revive(self) -> None:
        """Start what is not running, each at most once in `RESTART_SECONDS`."""
        now = time.monotonic()
        if not self._proxy.runs() and now >= self._proxy_due:
            self._proxy_due = now + RESTART_SECONDS
            self._target = None
            self._proxy.start()
        if (self._page is None or self._page.poll() is not None) and now >= self._page_due:
            self._page_due = now + RESTART_SECONDS
            self._page = subprocess.Popen(
                self._page_command,
                stdin=subprocess.DEVNULL,
                preexec_fn=dies_with_this_process(),
            )

    def _follow(self) -> None:
        """Lead the proxy to where the cluster is now; to where it was while that is not to be
        read, or HAProxy is just starting again."""
        try:
            target = read_target(self._folder, public=self._public)
            if target != self._target:
                self._proxy.lead_to(target)
                self._target = target
        except (CaiError, OSError):
            return


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ray_serve_cai.serving.front_door")
    parser.add_argument("folder", type=Path, help="state folder of the cluster; may not exist yet")
    parser.add_argument("--port", type=int, help=f"port on {HOST}, instead of ${PORT_VARIABLE}")
    parser.add_argument("--name", help="what the page calls the cluster")
    parser.add_argument(
        "--public",
        action="store_true",
        help="no login stands in front of the port: no dashboard, no addresses, no messages",
    )
    return parser.parse_args()


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _port_of_platform() -> int:
    given = os.environ.get(PORT_VARIABLE, "")
    if not given.isdigit():
        raise ClusterError("CAI-DOOR-003", f"{PORT_VARIABLE} is {given or 'not set'}")
    return int(given)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + PORT_SECONDS
    while is_taken(HOST, port):
        if time.monotonic() > deadline:
            other = os.environ.get(READONLY_VARIABLE, "not set here")
            raise ClusterError(
                "CAI-DOOR-001",
                f"port {port} on {HOST} is in use by another program "
                f"({READONLY_VARIABLE}: {other})",
            )
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
