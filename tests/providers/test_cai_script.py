"""The project's script under the real IPython, which the platform's engines use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.cloudera.project import Project
from fakes.cloudera.workload import Wanted, Workload
from support import until

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.providers.cai_script import (
    FIRST_LINE,
    NAME,
    SCRIPT,
    project_folder,
    script_variables,
    write_script,
)

IPYTHON = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor"]
WAYS = {"file": [NAME], "run": ["-c", f"%run {NAME}"]}
SECONDS = 60


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's home folder, this process being one of its workloads."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CDSW_ENGINE_ID", "abcdefgh12345678")
    return tmp_path


def ipython(way: str, home: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*IPYTHON, *WAYS[way]],
        cwd=home,
        env=variables(arguments),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def variables(arguments: str) -> dict[str, str]:
    return {**os.environ, **script_variables(), "CAI_ARGUMENTS": arguments}


class TestInIPython:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        ("arguments", "status"),
        [("engines list", 0), ("cluster status missing", 2), ("storage ls file:///none", 1)],
    )
    def test_exit_status_passes_through(
        self, home: Path, way: str, arguments: str, status: int
    ) -> None:
        write_script()
        done = ipython(way, home, arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr

    @pytest.mark.parametrize("way", WAYS)
    def test_output_is_all_there(self, home: Path, way: str) -> None:
        write_script()
        done = ipython(way, home, "schema cluster")
        assert '"bypass_authentication"' in done.stdout
        assert done.stdout.rstrip().endswith("}")

    @pytest.mark.parametrize("way", WAYS)
    def test_sigterm_reaches_the_command(self, home: Path, way: str) -> None:
        """It ends its command in an orderly way, and the status says so."""
        write_script()
        marker = home / "ended"
        slow = home / "slow.py"
        slow.write_text(SLOW)
        environment = variables("unused") | {"CAI_PYTHON": str(home / "python")}
        stand_in = home / "python"
        stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} "{slow}" "{marker}"\n')
        stand_in.chmod(0o755)
        process = subprocess.Popen(
            [*IPYTHON, *WAYS[way]], cwd=home, env=environment, stdout=subprocess.DEVNULL
        )
        until((home / "ended.begun").is_file, SECONDS, "the command")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 130
        assert marker.is_file()

    def test_a_killed_command_is_no_success(self, home: Path) -> None:
        write_script()
        stand_in = home / "python"
        stand_in.write_text("#!/bin/sh\nkill -9 $$\n")
        stand_in.chmod(0o755)
        environment = variables("unused") | {"CAI_PYTHON": str(stand_in)}
        done = subprocess.run([*IPYTHON, NAME], cwd=home, env=environment, check=False)
        assert done.returncode == 137


SLOW = """
import signal, sys, time
from pathlib import Path

def end(*_):
    Path(sys.argv[1]).touch()
    sys.exit(130)

signal.signal(signal.SIGTERM, end)
Path(sys.argv[1] + ".begun").touch()
time.sleep(600)
"""


class TestWorkload:
    @pytest.fixture
    def project(self, short_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
        project = Project(short_home)
        monkeypatch.setenv("HOME", str(project.home))
        monkeypatch.setenv("CDSW_ENGINE_ID", "abcdefgh12345678")
        write_script()
        return project

    @pytest.mark.parametrize(
        ("arguments", "status"),
        [("cai engines list", "succeeded"), ("cluster status missing", "failed")],
    )
    def test_status_is_the_commands(self, project: Project, arguments: str, status: str) -> None:
        own = {**script_variables(), "JOB_ARGUMENTS": arguments, "CAI_ARGUMENTS": "nonsense"}
        workload = Workload(project, Wanted(kind="job", script=NAME, environment=own))
        workload.start()
        assert workload.wait(SECONDS) == status, workload.console.read_text()
        assert project.apiv2_key not in workload.console.read_text()

    def test_finds_a_python_that_is_not_the_platforms(self, project: Project) -> None:
        own = {"CAI_ARGUMENTS": "engines list", "CAI_PYTHON": str(project.home / "venv")}
        (project.home / "venv").write_text(f'#!/bin/sh\necho mine\nexec {sys.executable} "$@"\n')
        (project.home / "venv").chmod(0o755)
        workload = Workload(project, Wanted(kind="job", script=NAME, environment=own))
        workload.start()
        assert workload.wait(SECONDS) == "succeeded"
        assert workload.console.read_text().startswith("mine\n")


class TestFile:
    def test_is_written_once(self, home: Path) -> None:
        assert write_script() == NAME
        written = (home / NAME).stat().st_mtime_ns
        assert write_script() == NAME
        assert (home / NAME).stat().st_mtime_ns == written
        assert (home / NAME).read_text() == SCRIPT

    def test_an_older_one_of_ours_is_replaced(self, home: Path) -> None:
        (home / NAME).write_text(FIRST_LINE + "print('old')\n")
        write_script()
        assert (home / NAME).read_text() == SCRIPT

    def test_anothers_is_left_alone(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / NAME).write_text("print('mine')\n")
        with pytest.raises(ClusterError, match="not written by cai") as raised:
            write_script()
        assert raised.value.code == "CAI-PROVIDER-006"
        assert (home / NAME).read_text() == "print('mine')\n"
        monkeypatch.setenv("CAI_SCRIPT", "other.py")
        assert write_script() == "other.py"
        assert (home / "other.py").read_text() == SCRIPT

    def test_a_folder_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAI_PROJECT_FOLDER", "/nowhere")
        with pytest.raises(ClusterError, match=r"/nowhere/cai_entrypoint\.py") as raised:
            write_script()
        assert raised.value.code == "CAI-PROVIDER-006"

    def test_outside_a_workload(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("CDSW_ENGINE_ID", raising=False)
        with pytest.raises(ClusterError) as raised:
            project_folder()
        assert raised.value.code == "CAI-PROVIDER-001"
        monkeypatch.setenv("CAI_PROJECT_FOLDER", str(tmp_path))
        assert project_folder() == tmp_path

    def test_folders_go_along(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(home)
        monkeypatch.setenv("CAI_HOME", ".state")
        monkeypatch.setenv("CAI_CACHE", "~/cache")
        found = script_variables()
        assert found["CAI_HOME"] == str(home / ".state")
        assert found["CAI_CACHE"] == str(home / "cache")
        monkeypatch.delenv("CAI_HOME")
        assert "CAI_HOME" not in script_variables()

    def test_no_name_of_this_machine_in_it(self) -> None:
        assert sys.executable not in SCRIPT
        assert "/home" not in SCRIPT
