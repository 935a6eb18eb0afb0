from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import until

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, all_clusters
from ray_serve_cai.errors import ClusterError, StateError

RECORD = ClusterRecord("demo", "local", "ready", 1, {}, "demo.yaml", {}, 0.0)
HOLD = """
import sys, time
from ray_serve_cai.cluster.state import ClusterState
with ClusterState("demo").locked("up"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def state() -> ClusterState:
    made = ClusterState("demo")
    made.create()
    return made


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


class TestFiles:
    def test_record_comes_back(self, state: ClusterState) -> None:
        state.save(RECORD)
        assert state.existing_record() == RECORD
        assert [found.name for found in all_clusters()] == ["demo"]

    def test_no_such_cluster(self, state: ClusterState) -> None:
        state.save(RECORD)
        with pytest.raises(ClusterError, match=r'no cluster "other" \(known: demo\)') as caught:
            ClusterState("other").existing_record()
        assert caught.value.code == "CAI-CLUSTER-001"

    def test_only_the_owner_may_read(self, state: ClusterState) -> None:
        state.save(RECORD)
        state.set_variables({"CAI_API_KEY": "sk-1"})
        state.internal_key()
        for path in state.folder.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path

    def test_token_and_key_are_made_once(self, state: ClusterState) -> None:
        token, key = state.token_path.read_text(), state.internal_key()
        state.create()
        assert (state.token_path.read_text(), state.internal_key()) == (token, key)
        assert len(token) >= 32

    def test_each_owner_has_its_variables(self, state: ClusterState) -> None:
        state.set_variables({"A": "1", "B": "1"})
        state.set_variables({"A": "2"}, "model chat 1")
        assert state.variables() == {"A": "1", "B": "1"}
        assert state.variables("model chat 1") == {"A": "2"}
        assert state.variables("model chat 2") == {}
        state.set_variables({"B": "3"})
        assert state.variables() == {"B": "3"}
        state.set_variables({})
        assert state.variables() == {}

    @pytest.mark.parametrize("name", ["", ".", "..", "/tmp/x", "a/b", "A", "a\n"])
    def test_what_no_cluster_is_called(self, name: str) -> None:
        with pytest.raises(ClusterError) as caught:
            ClusterState(name)
        assert caught.value.code == "CAI-CLUSTER-001"

    def test_clear_leaves_the_logs(self, state: ClusterState) -> None:
        state.save(RECORD)
        (state.logs / "node-head.log").write_text("words\n")
        state.clear()
        assert [path.name for path in state.folder.iterdir()] == ["logs"]
        assert all_clusters() == []


class TestAtomicWrite:
    def test_failure_leaves_the_old_file(
        self, state: ClusterState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state.save(RECORD)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="No space left on device") as caught:
            state.write(state.record_path, {"half": "made"})
        assert caught.value.code == "CAI-STATE-001"
        assert state.existing_record() == RECORD
        assert [path.name for path in state.folder.glob(".*")] == []

    def test_reader_never_sees_a_part(self, state: ClusterState) -> None:
        """A reader beside a writer finds the old text or the new one, whole."""
        path = state.folder / "long.json"
        state.write(path, {"text": "a" * 100_000})
        code = (
            "import sys; from pathlib import Path\n"
            "from ray_serve_cai.cluster.state import ClusterState\n"
            "state, path = ClusterState('demo'), Path(sys.argv[1])\n"
            "for n in range(200): state.write(path, {'text': 'ab'[n % 2] * 100_000})\n"
        )
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        seen = 0
        while writer.poll() is None:
            assert len((state.read(path) or {})["text"]) == 100_000
            seen += 1
        assert writer.returncode == 0
        assert seen > 1

    @pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00\xff", '"words"'])
    def test_damaged_file(self, state: ClusterState, text: str) -> None:
        state.record_path.write_bytes(text.encode("latin-1"))
        with pytest.raises(StateError) as caught:
            state.record()
        assert caught.value.code == "CAI-STATE-002"
        assert str(state.record_path) in caught.value.message

    def test_file_of_another_version(self, state: ClusterState) -> None:
        state.write(state.record_path, {"name": "demo", "from_the_future": 1})
        with pytest.raises(StateError) as caught:
            state.record()
        assert caught.value.code == "CAI-STATE-002"


class TestLock:
    def test_second_holder_is_named_the_first(self, holder: subprocess.Popen[str]) -> None:
        with (
            pytest.raises(ClusterError, match=rf"process {holder.pid} is changing") as caught,
            ClusterState("demo").locked("down"),
        ):
            pass
        assert caught.value.code == "CAI-CLUSTER-003"
        assert caught.value.exit == 1

    def test_lock_of_a_dead_process_is_taken_over(self, holder: subprocess.Popen[str]) -> None:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        state = ClusterState("demo")
        assert (state.folder / "lock").exists()
        with state.locked("down"):
            assert f"{os.getpid()}" in (state.folder / "lock").read_text()

    @pytest.mark.root
    def test_lock_of_a_dead_pod_is_taken_over(
        self, state: ClusterState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether a process of another host lives is not to be seen: its sign of life counts."""
        code = HOLD.replace(
            "with", "import ray_serve_cai.cluster.state as s; s.LEASE_SECONDS = 2\nwith", 1
        )
        words = ["unshare", "-u", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]
        pod = subprocess.Popen([*words, sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert pod.stdout is not None
        assert pod.stdout.readline() == b"held\n"
        monkeypatch.setattr("ray_serve_cai.cluster.state.LEASE_SECONDS", 2.0)
        with pytest.raises(ClusterError, match="is changing"), state.locked("down"):
            pass
        pod.kill()
        pod.wait()
        lock = state.folder / "lock"
        until(lambda: time.time() - lock.stat().st_mtime > 1.0, 10, "its silence")
        with state.locked("down"):
            assert f"{os.getpid()}" in lock.read_text()

    def test_released_after_a_failure(self, state: ClusterState) -> None:
        with pytest.raises(RuntimeError), state.locked("up"):
            raise RuntimeError
        with state.locked("up"):
            pass

    def test_leaves_no_folder_where_there_was_none(self) -> None:
        state = ClusterState("demo")
        with state.locked("down"):
            pass
        assert not state.folder.exists()


class TestFolderThatCannotBeWritten:
    def test_home_is_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("CAI_HOME", str(tmp_path / "file"))
        with pytest.raises(StateError) as caught:
            ClusterState("demo").create()
        assert caught.value.code == "CAI-STATE-001"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_no_permission(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
        with pytest.raises(StateError, match="Permission denied"):
            ClusterState("demo").create()

    @pytest.mark.root
    def test_read_only_mount(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        monkeypatch.setenv("CAI_HOME", str(mount))
        for action in (ClusterState("demo").create, ClusterState("demo").locked("up").__enter__):
            with pytest.raises(StateError, match="Read-only file system") as caught:
                action()
            assert caught.value.code == "CAI-STATE-001"

    @pytest.mark.root
    def test_full_disk(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAI_HOME", str(mount))
        state = ClusterState("demo")
        state.create()
        state.save(RECORD)
        fill(mount)
        with pytest.raises(StateError, match="No space left on device") as caught:
            state.write(state.record_path, {"much": "x" * 50_000})
        assert caught.value.code == "CAI-STATE-001"
        assert state.existing_record() == RECORD
        assert list(state.folder.glob("*.partial")) == []

    @pytest.mark.root
    def test_full_disk_when_taking_the_lock(
        self, mount: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CAI_HOME", str(mount))
        state = ClusterState("demo")
        state.create()
        fill(mount)
        with pytest.raises(StateError, match="No space left on device"), state.locked("up"):
            pass
        assert not (state.folder / "lock").exists()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)


def test_node_rows(state: ClusterState) -> None:
    (state.folder / "nodes" / "head.json").write_text(json.dumps({"id": "head"}))
    assert state.node_rows() == {"head": {"id": "head"}}
    state.forget_node("head")
    state.forget_node("head")
    assert state.node_rows() == {}
