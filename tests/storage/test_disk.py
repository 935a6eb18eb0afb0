"""Disks without enough room, and sizes that memory must not follow."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from proxy import Fault, Proxy
from servers import S3, contents, is_whole, s3_environment, set_all, some_bytes, sum_of

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import disk, transfer
from ray_serve_cai.storage.mirror import mirror

MIB = 2**20
DISK = 8 * MIB
MOST_MEMORY = 256 * MIB

# Prints its peak memory in KiB. That of `getrusage` has the parent's, which it was forked from.
PROGRAM = """
import sys
from pathlib import Path
from ray_serve_cai.storage.{0} import {0}
{0}(*[Path(word) if word.startswith("/") else word for word in sys.argv[1:]])
print(*[line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")])
"""


def peak_memory(call: str, *words: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(call), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-2]) * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
def test_does_not_fit(s3: S3, proxy: Proxy, small_disk: Path) -> None:
    s3.put("m/large", some_bytes(DISK))
    with pytest.raises(StorageError, match=r"8\.0 MiB are still to come.* are missing") as caught:
        mirror(s3.url(), small_disk / "here")
    assert caught.value.code == "CAI-STORAGE-004"
    assert not proxy.asked("large")


@pytest.mark.root
def test_full_midway(
    s3: S3, proxy: Proxy, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one fills the disk while files come."""
    monkeypatch.setattr(transfer, "PIECE_BYTES", MIB // 2)
    monkeypatch.setattr(transfer, "WHOLE_BYTES", MIB // 2)
    monkeypatch.setattr(transfer, "THREADS", 2)
    model = {"a": some_bytes(MIB, 1), "b": some_bytes(3 * MIB, 2)}
    for name, data in model.items():
        s3.put(f"m/{name}", data)
    other = small_disk / "other"
    asked = itertools.count()
    proxy.add(Fault("/b", before=lambda: next(asked) == 3 and _fill(other)))
    folder = small_disk / "here"
    with pytest.raises(StorageError, match="the disk became full") as caught:
        mirror(s3.url(), folder)
    assert caught.value.code == "CAI-STORAGE-004"
    assert not is_whole(folder)
    assert set(contents(folder)) <= {"a"}
    other.unlink()
    proxy.heal()
    mirror(s3.url(), folder)
    assert contents(folder) == model
    assert proxy.sent < 4 * MIB


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB // 8))
        except OSError:
            pass


def test_room_is_asked_for_what_is_missing_only(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("m/a", bytes(100))
    mirror(s3.url(), tmp_path)
    s3.put("m/b", bytes(10))
    usage = type("Usage", (), {"free": disk.SPARE_BYTES + 10})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    mirror(s3.url(), tmp_path)
    s3.put("m/c", bytes(11))
    with pytest.raises(StorageError, match=r"11 bytes are still to come.*; 1 bytes are missing"):
        mirror(s3.url(), tmp_path)


class _Endless(BaseHTTPRequestHandler):
    """An S3 of one object of 2 GiB, where each MiB has its own byte."""

    protocol_version = "HTTP/1.1"
    size = 2048 * MIB
    # The MD5 of `block` for 0 to 2047.
    etag = "12d5464a46ea7b11caccd239c1c1a80f"

    @staticmethod
    def block(number: int) -> bytes:
        return bytes([number % 251]) * MIB

    def do_GET(self) -> None:
        if "list-type" in self.path:
            entry = f"<Key>m/huge</Key><Size>{self.size}</Size><ETag>{self.etag}</ETag>"
            self._head(200, size=len(text := _listing(entry)))
            self.wfile.write(text)
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self._head(206, f"bytes {first}-{last}/{self.size}", last + 1 - first)
        for number in range(first // MIB, last // MIB + 1):
            self.wfile.write(self.block(number))

    def _head(self, status: int, span: str = "", size: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _listing(entry: str) -> bytes:
    when = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    inner = f"<Name>b</Name><KeyCount>1</KeyCount><Contents>{entry}{when}</Contents>"
    return f"<ListBucketResult>{inner}</ListBucketResult>".encode()


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_two_gigabytes_of_s3(
    endless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server makes up its bytes: moto would hold them in memory. The MD5 is checked."""
    set_all(monkeypatch, s3_environment(endless, tmp_path))
    assert peak_memory("mirror", "s3://bucket/m", str(tmp_path / "here")) < MOST_MEMORY
    made = tmp_path / "here/huge"
    assert made.stat().st_size == _Endless.size
    assert is_whole(tmp_path / "here")
    made.unlink()


def test_large_file(tmp_path: Path) -> None:
    """Sparse at the source, whole at the copy."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "huge").open("wb") as file:
        file.truncate(600 * MIB)
        os.pwrite(file.fileno(), b"here", 500 * MIB)
    assert peak_memory("mirror", f"file://{source}", str(tmp_path / "here")) < MOST_MEMORY
    with (tmp_path / "here/huge").open("rb") as file:
        assert os.pread(file.fileno(), 6, 500 * MIB - 1) == b"\0here\0"
    assert (tmp_path / "here/huge").stat().st_size == 600 * MIB
    (tmp_path / "here/huge").unlink()


def test_push_of_large_files(s3: S3, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(8):
        (folder / f"large-{number}").write_bytes(some_bytes(MIB, number) * 20)
    assert peak_memory("push", str(folder), s3.url()) < MOST_MEMORY
    assert sum_of(s3.get("m/large-7")) == sum_of((folder / "large-7").read_bytes())


def test_ten_thousand_small_files(tmp_path: Path) -> None:
    """From a disk: moto takes about 3 ms for each."""
    source = tmp_path / "source"
    for number in range(10_000):
        folder = source / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}").write_bytes(b"%d" % number)
    here = tmp_path / "here"
    assert peak_memory("mirror", f"file://{source}", str(here)) < MOST_MEMORY
    assert contents(here) == contents(source)
    assert peak_memory("mirror", f"file://{source}", str(here)) < MOST_MEMORY
