"""The stand-in platform's workloads behave as docs/cloudera-ai.md says the real ones do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fakes.cloudera.network import Network
from fakes.cloudera.project import Project
from fakes.cloudera.workload import Wanted, Workload
from support import until

Begin = Callable[..., Workload]

SERVER = """
import http.server, os
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello " + self.path.encode())
port = int(os.environ["CDSW_APP_PORT"])
http.server.HTTPServer(("127.0.0.1", port), Hello).serve_forever()
"""

MAKER = """
import sys
from pathlib import Path
from fakes.cloudera.network import Network
from fakes.cloudera.project import Project
from fakes.cloudera.workload import Wanted, Workload
network = Network() if sys.argv[2] else None
workload = Workload(Project(Path(sys.argv[1]), network), Wanted())
workload.start()
print(workload.first_process, network.bridge if network else "none", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["beside", pytest.param("apart", marks=pytest.mark.root)])
def project(request: pytest.FixtureRequest, short_home: Path) -> Iterator[Project]:
    """A project whose workloads run on this machine, or in namespaces of their own."""
    network = Network() if request.param == "apart" else None
    yield Project(short_home, network)
    if network:
        network.remove()


@pytest.fixture
def begin(project: Project) -> Iterator[Begin]:
    made: list[Workload] = []

    def start(code: str = Wanted.code, master: Workload | None = None, **keys: object) -> Workload:
        made.append(Workload(project, Wanted(code=code, **keys), master))
        made[-1].start()
        return made[-1]

    yield start
    for workload in made:
        workload.stop()
        workload.wait()


def console(workload: Workload) -> str:
    return workload.console.read_text()


class TestCode:
    def test_shell_lines_and_python(self, begin: Begin) -> None:
        code = "x = 2\n!echo from the shell; false\nif x:\n    !echo nested\nprint(x + 1)"
        workload = begin(code)
        assert workload.wait() == "succeeded"
        assert console(workload).splitlines() == ["from the shell", "nested", "3"]

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            ("1 / 0", "failed"),
            ("import os; os._exit(3)", "failed"),
            ("raise SystemExit(3)", "failed"),
            ("raise SystemExit(0)", "succeeded"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed"),
            ("print(__file__)", "failed"),
        ],
    )
    def test_how_it_ended(self, begin: Begin, code: str, status: str) -> None:
        assert begin(code).wait() == status

    def test_script_beats_code(self, begin: Begin, project: Project) -> None:
        (project.home / "job.py").write_text("print('the script')")
        workload = begin("print('the code')", script="job.py")
        assert workload.wait() == "succeeded"
        assert console(workload) == "the script\n"


class TestPod:
    def test_environment(self, begin: Begin) -> None:
        master = begin()
        worker = begin("!env", master, kind="worker", cpu=0.5, environment={"FOR_IT": "yes"})
        worker.wait()
        given = dict(line.split("=", 1) for line in console(worker).splitlines() if "=" in line)
        assert given["CDSW_ENGINE_ID"] == worker.id
        assert given["CDSW_MASTER_ID"] == master.id
        assert given["CDSW_MASTER_IP"] == master.ip
        assert (given["CDSW_CPU_MILLICORES"], given["FOR_IT"]) == ("500", "yes")
        assert master.environment["CDSW_MASTER_ID"] == ""

    def test_web_port(self, begin: Begin) -> None:
        workload = begin(SERVER)
        until(lambda: answers(workload), 10, "its web server")
        assert workload.get("/there") == (200, b"hello /there")

    def test_mesh_says_nothing(self, begin: Begin) -> None:
        """A connect succeeds though nobody listens behind the sidecar."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        workload = begin(silent_ports=[port])
        until(lambda: answers_connect(workload.ip, port), 10, "the sidecar")
        with socket.create_connection((workload.ip, port), 1) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)

    def test_editor_has_the_port(self, begin: Begin) -> None:
        workload = begin(SERVER, port_taken=True)
        assert workload.wait() == "failed"
        assert "Address already in use" in console(workload)


class TestEnd:
    def test_stop_ends_what_the_code_left(self, begin: Begin) -> None:
        workload = begin("!setsid sleep 600 & echo $! > left\n!touch begun\n" + Wanted.code)
        until((workload.project.home / "begun").exists, 10, "its code")
        left = [p for p in psutil.process_iter() if "sleep 600" in " ".join(words(p))]
        assert left
        workload.stop()
        assert workload.wait() == "stopped"
        until(lambda: not any(p.is_running() for p in left), 5, "the end of its processes")

    def test_sigterm_comes_first(self, begin: Begin) -> None:
        code = (
            "import os, signal, time\n"
            "def end(*_):\n    print('going', flush=True)\n    os._exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\nprint('there', flush=True)\n"
        )
        workload = begin(code + Wanted.code)
        until(lambda: workload.console.exists() and console(workload), 10, "its handler")
        workload.stop()
        assert workload.wait() == "stopped"
        assert console(workload).splitlines() == ["there", "going"]

    def test_ends_with_whoever_made_it(self, project: Project) -> None:
        """However that ended: here by SIGKILL."""
        apart = project.network is not None
        maker = subprocess.Popen(
            [sys.executable, "-c", MAKER, str(project.folder), "apart" if apart else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        assert maker.stdout is not None
        pid, bridge = maker.stdout.readline().split()
        first = psutil.Process(int(pid))
        maker.kill()
        maker.wait()
        until(lambda: not first.is_running(), 5, "the end of the workload")
        if apart:
            subprocess.run(["ip", "link", "del", bridge], check=True)


@pytest.mark.root
def test_pods_have_networks_of_their_own(short_home: Path) -> None:
    network = Network()
    try:
        project = Project(short_home, network)
        listens = "import http.server\nhttp.server.test(port=9000, bind='0.0.0.0')"
        server = Workload(project, Wanted(code=listens))
        server.start()
        client = Workload(project, Wanted(shm_megabytes=80))
        client.start()
        until(lambda: answers_connect(server.ip, 9000), 10, "the server, seen from the host")
        ask = f"import socket; socket.create_connection(('{server.ip}', 9000), 5); print('yes')"
        done = inside(client, sys.executable, "-c", ask)
        assert done == "yes\n"
        assert inside(client, "hostname") == f"{client.id}\n"
        assert "80M" in inside(client, "df", "-h", "/dev/shm")
        (client.temp / "seen").write_text("by the host alone")
        assert inside(client, "sh", "-c", "ls $TMPDIR") == ""
        for workload in (client, server):
            workload.stop()
            workload.wait()
    finally:
        network.remove()


def inside(workload: Workload, *command: str) -> str:
    return subprocess.run(
        workload.command(*command),
        env=workload.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def answers(workload: Workload) -> bool:
    try:
        return workload.get()[0] == 200
    except OSError:
        return False


def answers_connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
