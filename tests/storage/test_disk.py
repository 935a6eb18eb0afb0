"""Disks without enough room, and sizes that memory must not follow."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

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


class _Answers(BaseHTTPRequestHandler):
    """Reads of an S3 that makes up its objects: moto would hold them, and takes ms for each."""

    protocol_version = "HTTP/1.1"
    # Head and body leave together, without waiting for each other.
    wbufsize = -1
    disable_nagle_algorithm = True

    def listing(self, after: str) -> tuple[list[tuple[str, int, str]], bool]:
        """Name, size and MD5 of objects that come after a name, and whether these are all."""
        raise NotImplementedError

    def list_from(self, after: str) -> bytes:
        entries, last = self.listing(after)
        when = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        inner = "".join(
            f"<Contents><Key>m/{name}</Key><Size>{size}</Size><ETag>{md5}</ETag>{when}</Contents>"
            for name, size, md5 in entries
        )
        more = "" if last else f"<NextContinuationToken>{entries[-1][0]}</NextContinuationToken>"
        cut = f"<IsTruncated>{str(not last).lower()}</IsTruncated>{more}"
        head = f"<Name>b</Name><KeyCount>{len(entries)}</KeyCount>"
        return f"<ListBucketResult>{head}{inner}{cut}</ListBucketResult>".encode()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            self.head(
                200, size=len(text := self.list_from(*query.get("continuation-token", [""])))
            )
            self.wfile.write(text)
        else:
            self.send_object(parts.path.removeprefix("/bucket/m/"))

    def send_object(self, name: str) -> None:
        raise NotImplementedError

    def head(self, status: int, size: int = 0, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} -", f"Content-Length: {size}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.wfile.write("\r\n".join((*lines, "", "")).encode())

    def log_message(self, *_: object) -> None:
        pass


class _Huge(_Answers):
    """One object of 2 GiB, where each MiB has its own byte."""

    size = 2048 * MIB
    # Of `block` for 0 to 2047.
    etag, crc32 = "12d5464a46ea7b11caccd239c1c1a80f", "JoD44w=="

    @staticmethod
    def block(number: int) -> bytes:
        return bytes([number % 251]) * MIB

    def listing(self, after: str) -> tuple[list[tuple[str, int, str]], bool]:
        return [("huge", self.size, self.etag)], True

    def do_HEAD(self) -> None:
        self.head(200, self.size, ETag=f'"{self.etag}"', x_amz_checksum_crc32=self.crc32)

    def send_object(self, name: str) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        span = f"bytes {first}-{last}/{self.size}"
        self.head(206, last + 1 - first, Content_Range=span)
        for number in range(first // MIB, last // MIB + 1):
            self.wfile.write(self.block(number))


class _Many(_Answers):
    """10,000 objects, whose content is their name, in pages of 1,000 as S3 gives them."""

    names = sorted(f"{number % 100:02}/{number:05}" for number in range(10_000))

    def listing(self, after: str) -> tuple[list[tuple[str, int, str]], bool]:
        start = self.names.index(after) + 1 if after else 0
        page = self.names[start : start + 1000]
        sums = [sum_of(name.encode()) for name in page]
        entries = [(name, len(name), md5) for name, md5 in zip(page, sums, strict=True)]
        return entries, start + len(page) == len(self.names)

    def send_object(self, name: str) -> None:
        self.head(200, len(name))
        self.wfile.write(name.encode())


@contextmanager
def serving(answers: type[_Answers]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    with serving(request.param) as endpoint:
        set_all(monkeypatch, s3_environment(endpoint, tmp_path))
        yield


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("store", [_Huge], indirect=True)
def test_two_gigabytes_of_s3(tmp_path: Path) -> None:
    assert peak_memory("mirror", "s3://bucket/m", str(tmp_path / "here")) < MOST_MEMORY
    made = tmp_path / "here/huge"
    assert made.stat().st_size == _Huge.size
    assert is_whole(tmp_path / "here")
    made.unlink()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("store", [_Many], indirect=True)
def test_ten_thousand_small_objects(tmp_path: Path) -> None:
    """The second time nothing is read but the listing."""
    here = tmp_path / "here"
    for _ in range(2):
        assert peak_memory("mirror", "s3://bucket/m", str(here)) < MOST_MEMORY
        assert contents(here) == {name: name.encode() for name in _Many.names}


def test_large_file(tmp_path: Path) -> None:
    """Sparse at the source, whole at the copy."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "huge").open("wb") as file:
        file.truncate(300 * MIB)
        os.pwrite(file.fileno(), b"here", 200 * MIB)
    assert peak_memory("mirror", f"file://{source}", str(tmp_path / "here")) < MOST_MEMORY
    with (tmp_path / "here/huge").open("rb") as file:
        assert os.pread(file.fileno(), 6, 200 * MIB - 1) == b"\0here\0"
    assert (tmp_path / "here/huge").stat().st_size == 300 * MIB
    (tmp_path / "here/huge").unlink()


def test_push_of_large_files(s3: S3, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(8):
        (folder / f"large-{number}").write_bytes(some_bytes(MIB, number) * 20)
    assert peak_memory("push", str(folder), s3.url()) < MOST_MEMORY
    assert sum_of(s3.get("m/large-7")) == sum_of((folder / "large-7").read_bytes())


def test_thousands_of_small_files_of_a_disk(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(2000):
        folder = source / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}").write_bytes(b"%d" % number)
    here = mirror(str(source), tmp_path / "here")
    assert contents(here) == contents(source)
