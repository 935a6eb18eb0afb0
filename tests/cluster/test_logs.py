from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ray_serve_cai.cluster.logs import print_logs


def stamped(minutes_ago: float, text: str, style: str = "%Y-%m-%d %H:%M:%S") -> str:
    return f"{datetime.now() - timedelta(minutes=minutes_ago):{style}} {text}\n"


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "node-head.log").write_text("one\ntwo\nthree\n")
    return tmp_path


def test_tail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_logs(folder, ["node-head.log"], tail=2)
    assert printed(capsys) == ["two", "three"]


def test_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_logs(folder, ["node-head.log"], tail=0)
    assert printed(capsys) == ["one", "two", "three"]


def test_several_files_say_which(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "gateway.log").write_text("ready\n")
    print_logs(folder, ["node-*.log", "gateway.log"], tail=1)
    assert printed(capsys) == ["gateway | ready", "node-head | three"]


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_logs(tmp_path, ["*.log"], tail=1)
    assert printed(capsys) == []


def test_bytes_that_are_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "node-head.log").write_bytes(b"\xff\xfe words\n")
    print_logs(folder, ["node-head.log"], tail=0)
    assert "words" in printed(capsys)[0]


def test_since(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "node-head.log").write_text(
        "unstamped\n" + stamped(30, "old") + stamped(5, "new") + "  its second line\n"
    )
    print_logs(folder, ["node-head.log"], tail=0, since=600)
    assert [line.split(" ", 2)[-1] for line in printed(capsys)] == ["new", "its second line"]


def test_since_with_vllms_stamps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style = "INFO %m-%d %H:%M:%S"
    text = stamped(30, "old", style) + stamped(1, "new", style)
    (folder / "node-head.log").write_text(text)
    print_logs(folder, ["node-head.log"], tail=0, since=600)
    assert [line.rsplit(" ", 1)[-1] for line in printed(capsys)] == ["new"]


def test_impossible_date_is_no_stamp(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "node-head.log").write_text("02-30 99:99:99 no date\n" + stamped(1, "new"))
    print_logs(folder, ["node-head.log"], tail=0, since=600)
    assert printed(capsys)[-1].endswith("new")


def test_follow(folder: Path) -> None:
    """Lines that come later, from files that come later, a line split by the writer included."""
    code = (
        "import sys; from pathlib import Path\n"
        "from ray_serve_cai.cluster.logs import print_logs\n"
        "print_logs(Path(sys.argv[1]), ['*.log'], tail=1, follow=True)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "three\n"
            (folder / "node-gpu.log").write_text("later\n")
            assert process.stdout.readline() == "node-gpu | later\n"
            with (folder / "node-head.log").open("a") as file:
                file.write("four\n")
            assert process.stdout.readline() == "node-head | four\n"
        finally:
            os.kill(process.pid, signal.SIGKILL)
