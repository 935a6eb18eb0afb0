"""The engine host as a real process, with the echo engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import until

from ray_serve_cai.errors import CaiError
from ray_serve_cai.serving.host_process import HostProcess, _cause_in_log
from ray_serve_cai.serving.job import ReplicaJob

CHILDREN_ENGINE = '''
import subprocess
from ray_serve_cai.engines.echo import EchoEngine

class WithChildren(EchoEngine):
    """Starts a process in its group, as vLLM starts its workers."""
    async def start(self, worker_id):
        print("child", subprocess.Popen(["sleep", "600"]).pid, flush=True)
        return await super().start(worker_id)

class Segfault(EchoEngine):
    async def start(self, worker_id):
        print("the last words", flush=True)
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)

class Mute(EchoEngine):
    async def probe(self):
        raise RuntimeError("no first token")

class Counts(EchoEngine):
    async def cleanup(self):
        print("cleaning up", flush=True)

class HangsInDrain(Counts):
    async def drain(self):
        import asyncio
        await asyncio.sleep(600)

class HangsInHealth(Counts):
    async def health(self):
        import asyncio
        print("asked for its health", flush=True)
        await asyncio.sleep(600)

class Hangs(EchoEngine):
    async def cleanup(self):
        import time
        time.sleep(600)
'''
PARENT = """
import asyncio, json, sys
from ray_serve_cai.serving.host_process import HostProcess
from ray_serve_cai.serving.job import ReplicaJob

async def main():
    host = await HostProcess.spawn(ReplicaJob.from_json(json.loads(sys.argv[1])), "127.0.0.1", 1)
    await host.ready(lambda *_: None)
    print("ready", host._process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_engines.py").write_text(CHILDREN_ENGINE)
    return tmp_path


def job(project: Path, engine: str = "echo", **keys: Any) -> ReplicaJob:
    base = ReplicaJob(
        cluster="demo",
        model="team/chat",
        revision=2,
        source="builtin:demo",
        engine=engine,
        engine_args={},
        transport="grpc",
        env={},
        log_folder=str(project / "logs"),
        project=str(project),
    )
    return ReplicaJob.from_json(base.to_json() | keys)


def with_host(wanted: ReplicaJob, what: Callable[[HostProcess], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        host = await HostProcess.spawn(wanted, "127.0.0.1", 5)
        try:
            async with asyncio.timeout(40):
                return await what(host)
        finally:
            await host.stop(0)

    return asyncio.run(run())


async def ready(host: HostProcess) -> dict[str, Any]:
    return await host.ready(lambda *_: None)


def log_of(project: Path) -> str:
    (path,) = (project / "logs").iterdir()
    return path.read_text()


def child_in(project: Path) -> psutil.Process:
    words = log_of(project).split("child ")[1].split()
    return psutil.Process(int(words[0]))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_life(project: Path) -> None:
    phases: list[str] = []

    async def what(host: HostProcess) -> dict[str, Any]:
        config = await host.ready(lambda phase, _: phases.append(phase))
        while host.pulse is None:
            await asyncio.sleep(0.01)
        assert host.pulse.healthy
        assert host._workspace.folder.is_dir()
        assert psutil.Process(host._process.pid).environ()["TMPDIR"] == str(host._workspace.folder)
        await host.stop(10)
        assert host.returncode == 0
        assert not host._workspace.folder.exists()
        return config

    config = with_host(job(project), what)
    assert config["served_model_name"] == "team/chat"
    assert config["endpoint"].startswith("grpc://127.0.0.1:")
    assert phases == ["downloading", "loading"]


def test_compiled_kernels_outlive_the_host(project: Path) -> None:
    async def what(host: HostProcess) -> Path:
        await ready(host)
        (link,) = host._workspace.folder.glob("torchinductor_*")
        (link / "kept").write_text("kernel")
        return link.resolve()

    cache = with_host(job(project), what)
    assert cache == Path(tempfile.gettempdir()) / cache.name
    assert (cache / "kept").read_text() == "kernel"


def test_pulse_goes_on(project: Path) -> None:
    async def what(host: HostProcess) -> None:
        await ready(host)
        first = host.heard
        while host.heard <= first:
            await asyncio.sleep(0.05)

    with_host(job(project), what)


def test_project_is_on_the_path(project: Path) -> None:
    async def what(host: HostProcess) -> int | None:
        await ready(host)
        return host.returncode

    assert with_host(job(project, "my_engines.WithChildren"), what) is None


def test_environment_is_set_and_stays_off_the_command_line(project: Path) -> None:
    async def what(host: HostProcess) -> str:
        await ready(host)
        return " ".join(psutil.Process(host._process.pid).cmdline())

    secret = "hf_0123456789"
    words = with_host(job(project, env={"HF_TOKEN": secret}), what)
    assert "ray_serve_cai.serving.host" in words
    assert secret not in words + log_of(project)


class TestFailure:
    def fails(self, wanted: ReplicaJob) -> CaiError:
        with pytest.raises(CaiError) as caught:
            with_host(wanted, ready)
        return caught.value

    def test_of_the_engine(self, project: Path) -> None:
        error = self.fails(job(project, engine_args={"fail": "no luck today"}))
        assert error.code == "CAI-MODEL-002"
        assert error.message.startswith("no luck today\n")
        assert f"log: {project}/logs/model-team%2Fchat-r2-" in error.message

    def test_of_the_first_token(self, project: Path) -> None:
        error = self.fails(job(project, "my_engines.Mute"))
        assert error.code == "CAI-MODEL-002"
        assert error.message.startswith("RuntimeError: no first token\n")

    def test_unknown_argument(self, project: Path) -> None:
        assert self.fails(job(project, engine_args={"speed": 1})).code == "CAI-PLAN-002"

    def test_of_the_source(self, project: Path) -> None:
        error = self.fails(job(project, source="/nowhere"))
        assert error.code == "CAI-STORAGE-001"

    def test_unknown_engine(self, project: Path) -> None:
        assert self.fails(job(project, "ecko")).code == "CAI-ENGINE-001"

    def test_death_without_a_word(self, project: Path) -> None:
        error = self.fails(job(project, "my_engines.Segfault"))
        assert error.code == "CAI-MODEL-002"
        assert "signal 11" in error.message
        assert "the last words" in error.message


class TestDeath:
    def test_stop_that_hangs_ends_the_group(self, project: Path) -> None:
        async def what(host: HostProcess) -> int | None:
            await ready(host)
            await host.stop(0.5)
            return host.returncode

        assert with_host(job(project, "my_engines.Hangs"), what) == -signal.SIGKILL

    def test_killed_host_takes_its_group_along(self, project: Path) -> None:
        async def what(host: HostProcess) -> None:
            await ready(host)
            child = child_in(project)
            os.kill(host._process.pid, signal.SIGKILL)
            while not gone(child):
                await asyncio.sleep(0.05)
            assert host.returncode == -signal.SIGKILL

        with_host(job(project, "my_engines.WithChildren"), what)

    def test_host_dies_with_its_killed_parent(self, project: Path) -> None:
        wanted = json.dumps(job(project, "my_engines.WithChildren").to_json())
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, wanted], stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        word, pid = parent.stdout.readline().split()
        assert word == "ready"
        host, child = psutil.Process(int(pid)), child_in(project)
        parent.kill()
        parent.wait()
        until(lambda: gone(host) and gone(child), 10, "the end of the host and its child")

    def test_even_when_its_loop_is_busy(self, project: Path) -> None:
        """Loading a model can keep the host's event loop busy for minutes."""
        (project / "busy.py").write_text(
            "import time\nfrom ray_serve_cai.engines.echo import EchoEngine\n"
            "class Busy(EchoEngine):\n"
            "    async def start(self, worker_id):\n"
            "        print('busy', flush=True)\n"
            "        time.sleep(600)\n"
        )
        wanted = json.dumps(job(project, "busy.Busy").to_json())
        parent = subprocess.Popen([sys.executable, "-c", PARENT, wanted])
        until(lambda: (project / "logs").exists() and "busy" in log_of(project), 20, "busy")
        (host,) = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
        until(lambda: gone(host), 10, "the end of the host")


class TestStages:
    def test_each_is_told_and_cleanup_has_its_turn(self, project: Path) -> None:
        async def what(host: HostProcess) -> list[str]:
            await ready(host)
            await host.stop(4)
            assert host.returncode == 0
            return host.stages

        stages = with_host(job(project, "my_engines.HangsInDrain"), what)
        assert [stage.split(" after")[0] for stage in stages] == [
            "drain hooks done",
            "in-flight done",
            "drain cut off",
            "cleanup done",
            "shutdown hooks done",
        ]
        assert log_of(project).count("cleaning up") == 1

    def test_time_counts_from_the_stop_whatever_the_engine_is_asked(self, project: Path) -> None:
        async def what(host: HostProcess) -> list[str]:
            await ready(host)
            while "asked for its health" not in log_of(project):
                await asyncio.sleep(0.05)
            begun = time.monotonic()
            await host.stop(4)
            assert time.monotonic() - begun < 4
            assert host.returncode == 0
            return host.stages

        stages = with_host(job(project, "my_engines.HangsInHealth"), what)
        assert "cleanup done" in stages[-2]

    def test_sigterm_is_an_orderly_end(self, project: Path) -> None:
        async def what(host: HostProcess) -> int | None:
            await ready(host)
            os.kill(host._process.pid, signal.SIGTERM)
            await host._process.wait()
            return host.returncode

        assert with_host(job(project, "my_engines.Counts"), what) == 0
        assert log_of(project).count("cleaning up") == 1

    def test_failed_start_is_cleaned_up_once(self, project: Path) -> None:
        with pytest.raises(CaiError, match="no luck"):
            with_host(job(project, "my_engines.Counts", engine_args={"fail": "no luck"}), ready)
        assert log_of(project).count("cleaning up") == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("CAI-ENGINE-005", "\nmodule.NotThereError: No metadata\nlog: {}"),
        ("CAI-MODEL-002", "\nlog: {}"),
    ],
)
def test_what_a_program_died_of(code: str, said: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "ValueError: earlier\n  File x\nmodule.NotThereError: No metadata\nGoodbye\n"
        "ray_serve_cai.errors.EngineError: the command ended with status 1\n"
    )
    assert _cause_in_log(str(log), code) == said.format(log)
