"""One workload of the stand-in platform: a session, worker, job run or application.

It is a real process tree, in namespaces of its own where the project has a network: an address,
a host name, process ids, `/dev/shm` and `/tmp` as a pod has them. It ends with the process that
made this object, however that ends.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fakes.cloudera.project import Project, new_id

Kind = Literal["session", "worker", "job", "application"]
Status = Literal["created", "running", "stopping", "stopped", "succeeded", "failed"]

POD = Path(__file__).with_name("pod.py")
START_SECONDS = 30.0
FOREVER = "import time\nwhile True: time.sleep(3600)"
LEAST_SHM_MEGABYTES = 64


@dataclass(frozen=True)
class Wanted:
    """What a workload is asked for. `memory` in GB; `code` or a `script` below the home folder.

    `port_taken` is an editor's session, `silent_ports` are ports of the pod's address that accept
    and say nothing, `swallows_exit` has `sys.exit(1)` count as success.
    """

    kind: Kind = "session"
    cpu: float = 1.0
    memory: float = 2.0
    gpu: int = 0
    code: str = FOREVER
    script: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    port_taken: bool = False
    silent_ports: Sequence[int] = ()
    shm_megabytes: int = LEAST_SHM_MEGABYTES
    grace_seconds: float = 5.0
    swallows_exit: bool = False


class Workload:
    """`start` runs it, `status` tells how it goes on, `stop` ends it. Its `id` is that of its
    engine; `master` is the workload that launched it, for workers."""

    def __init__(self, project: Project, wanted: Wanted, master: Workload | None = None) -> None:
        self.project, self.wanted, self.master = project, wanted, master
        self.id = new_id()
        self.folder = project.pods / self.id
        self.temp = project.temp if project.network else self.folder / "tmp"
        (self.folder / "tmp").mkdir(parents=True)
        self.ip = project.network.new_address() if project.network else "127.0.0.1"
        # A pod has its ports for itself; beside each other they must differ.
        self.app_port = 8090 if project.network else _free_port()
        self._process: subprocess.Popen[str] | None = None
        self._link = ""
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def console(self) -> Path:
        """What its code, and everything that it started, printed."""
        return self.folder / "console.log"

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of its processes."""
        wanted, project = self.wanted, self.project
        own = {
            "CDSW_ENGINE_ID": self.id,
            "CDSW_ENGINE_URL": f"{project.url}/api/v1/engines/{self.id}",
            "CDSW_ENGINE_TYPE": wanted.kind,
            # There, but empty, where it is no worker.
            "CDSW_MASTER_ID": self.master.id if self.master else "",
            "CDSW_IP_ADDRESS": self.ip,
            "CDSW_APP_PORT": str(self.app_port),
            "CDSW_READONLY_PORT": str(self.app_port + 10),
            "CDSW_PUBLIC_PORT": str(self.app_port - 10),
            "CDSW_CPU_MILLICORES": str(int(wanted.cpu * 1000)),
            "CDSW_MEMORY_MB": str(int(wanted.memory * 1000)),
        }
        if self.master:
            own["CDSW_MASTER_IP"] = self.master.ip
        if wanted.port_taken:
            own["ML_RUNTIME_EDITOR"] = "JupyterLab"
        return project.variables(temp=self.temp, own={**wanted.environment, **own})

    @property
    def status(self) -> Status:
        process = self._process
        if process is None:
            return "stopped" if self._stopped else "created"
        ended = process.poll()
        if self._stopped:
            return "stopping" if ended is None else "stopped"
        if ended is None:
            return "running"
        return "failed" if ended else "succeeded"

    def start(self) -> None:
        """Returns when its code runs; nothing happens when it was stopped before."""
        with self._lock:
            if self._stopped:
                return
            process = self._process = subprocess.Popen(
                [*self._isolation(), sys.executable, str(POD), str(self._write_settings())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                cwd=self.project.home,
                env=self.environment,
            )
        assert process.stdout is not None
        if process.stdout.readline() == "up\n" and self.project.network:
            self._link = self.project.network.connect(process.pid)
        self._say("go")

    def stop(self) -> None:
        """Ask it to end; SIGTERM to its code comes first. Returns at once."""
        with self._lock:
            self._stopped = True
        self._say("stop")

    def kill(self) -> None:
        """End it as the loss of its node would: at once, with nobody told."""
        if self._link and self.project.network:
            self.project.network.cut(self._link)
        if self._process is not None and self._process.stdin is not None:
            # What was said to it after its end is still in the pipe.
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self, seconds: float = START_SECONDS) -> Status:
        """Its status after its end."""
        if self._process is not None:
            self._process.wait(seconds)
        return self.status

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` inside this workload, with `environment`."""
        enter = f'cd {self.project.home} && exec "$@"'
        inside = ["sh", "-c", enter, "sh", *map(str, words)]
        if self.project.network is None:
            return inside
        return ["nsenter", "-t", str(self.first_process), "-n", "-m", "-p", "-u", *inside]

    @property
    def first_process(self) -> int:
        """The process id, on this machine, of the pod's first process."""
        assert self._process is not None
        if self.project.network is None:
            return self._process.pid
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def connect(self) -> socket.socket:
        """A connection to `127.0.0.1:$CDSW_APP_PORT` inside, as the platform's proxy makes them.

        It ends at once when nothing listens there.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.folder / "web"))
        return connection

    def get(self, path: str = "/", seconds: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET on the app's port; raises `OSError` when nothing answers."""
        client = http.client.HTTPConnection("127.0.0.1", timeout=seconds)
        try:
            client.sock = self.connect()
            client.sock.settimeout(seconds)
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no answer: {error}") from error
        finally:
            client.close()

    def _isolation(self) -> list[str]:
        if self.project.network is None:
            return []
        own = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"]
        return ["unshare", *own]

    def _write_settings(self) -> Path:
        wanted = self.wanted
        settings = {
            "ip": self.ip,
            "hostname": self.id,
            "temp": [str(self.folder / "tmp"), str(self.project.temp)],
            "hosts": str(self.project.hosts),
            "home": str(self.project.home),
            "log": str(self.console),
            "web": str(self.folder / "web"),
            "app_port": self.app_port,
            "code": wanted.code,
            "script": wanted.script,
            "port_taken": wanted.port_taken,
            "silent_ports": list(wanted.silent_ports),
            "shm_megabytes": wanted.shm_megabytes,
            "grace_seconds": wanted.grace_seconds,
            "swallows_exit": wanted.swallows_exit,
        }
        if self.project.network:
            settings["address"] = f"{self.ip}/24"
        path = self.folder / "settings.json"
        # It holds the code, which a user would not keep in the project either.
        path.write_text(json.dumps(settings))
        os.chmod(path, 0o600)
        return path

    def _say(self, word: str) -> None:
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has ended by itself.
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
