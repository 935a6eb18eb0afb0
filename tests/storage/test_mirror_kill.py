"""Processes that are killed midway, and several that want the same folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from proxy import Fault, Proxy
from servers import S3, Place, contents, fill, is_whole, some_bytes
from support import until

from ray_serve_cai.storage import transfer as module
from ray_serve_cai.storage.mirror import mirror

PIECE = 100_000
PIECES = 30
THREADS = 4
SMALL = {f"part-{number}": some_bytes(20_000, number) for number in range(10)}
MODEL = {**SMALL, "large": some_bytes(PIECES * PIECE, 99)}
SIZE = sum(map(len, MODEL.values()))

PROGRAM = f"""
import json, sys
from pathlib import Path
from ray_serve_cai.storage import transfer
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.watch import Watch
transfer.PIECE_BYTES, transfer.WHOLE_BYTES, transfer.THREADS = {PIECE}, {PIECE}, {THREADS}
watch = Watch()
mirror(sys.argv[1], Path(sys.argv[2]), watch=watch, options=json.loads(sys.argv[3]))
print(watch.moved, watch.there)
"""


@pytest.fixture
def model(s3: S3) -> S3:
    for name, data in MODEL.items():
        s3.put(f"m/{name}", data)
    return s3


class Processes:
    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(
        self, url: str, folder: Path, options: Mapping[str, Any] = MappingProxyType({})
    ) -> subprocess.Popen[str]:
        given = json.dumps(dict(options))
        command = [sys.executable, "-c", PROGRAM, url, str(folder), given]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.all.append(process)
        return process


@pytest.fixture
def processes() -> Iterator[Processes]:
    some = Processes()
    yield some
    for process in some.all:
        process.kill()
        process.communicate()


def moved(process: subprocess.Popen[str]) -> int:
    """Bytes that it has transferred, by its own account."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return int(said.split()[-2])


def sent(proxy: Proxy) -> int:
    """Bytes of the model's objects, not of what a store says about them."""
    return sum(each.sent for each in proxy.asked("/m/"))


def killed_at(count: int, proxy: Proxy, process: subprocess.Popen[str]) -> None:
    until(lambda: sent(proxy) >= count or process.poll() is not None, 60, "some bytes")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_and_resumed(model: S3, proxy: Proxy, processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    proxy.add(Fault("/m/", rate=1_000_000.0))
    killed_at(SIZE // 2, proxy, processes.start(model.url(), folder))
    assert not is_whole(folder)
    assert all(MODEL[name] == data for name, data in contents(folder).items())
    before = proxy.sent
    proxy.heal()
    again = moved(processes.start(model.url(), folder))
    assert contents(folder) == MODEL
    assert is_whole(folder)
    in_flight = THREADS * PIECE
    assert again == proxy.sent <= SIZE - before + in_flight
    assert again < 0.6 * SIZE


def test_killed_and_resumed_elsewhere(
    elsewhere: tuple[Place, Proxy], processes: Processes, tmp_path: Path
) -> None:
    place, proxy = elsewhere
    fill(place, MODEL)
    proxy.heal()
    folder = tmp_path / "here"
    slow = proxy.add(Fault("/m/", rate=1_000_000.0))
    killed_at(SIZE // 2, proxy, processes.start(place.url, folder, place.options))
    assert not is_whole(folder)
    slow.times = 0
    again = moved(processes.start(place.url, folder, place.options))
    assert contents(folder) == MODEL
    assert is_whole(folder)
    assert again < 0.6 * SIZE


def test_killed_again_and_again(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    slow = proxy.add(Fault("/m/", rate=1_000_000.0))
    for part in (0.3, 0.6):
        killed_at(int(part * SIZE), proxy, processes.start(model.url(), folder))
    slow.times = 0
    moved(processes.start(model.url(), folder))
    assert contents(folder) == MODEL
    assert proxy.sent <= SIZE + 2 * THREADS * PIECE


def test_half_a_line_in_the_journal(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    slow = proxy.add(Fault("/m/", rate=1_000_000.0))
    killed_at(SIZE // 2, proxy, processes.start(model.url(), folder))
    journal = folder / ".cai/journal"
    journal.write_bytes(journal.read_bytes()[:-7])
    slow.times = 0
    mirror(model.url(), folder)
    assert contents(folder) == MODEL
    assert is_whole(folder)


def test_pieces_of_another_size(
    model: S3,
    proxy: Proxy,
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another release may cut otherwise."""
    folder = tmp_path / "here"
    slow = proxy.add(Fault("/m/", rate=1_000_000.0))
    killed_at(SIZE // 2, proxy, processes.start(model.url(), folder))
    slow.times = 0
    monkeypatch.setattr(module, "PIECE_BYTES", 3 * PIECE)
    monkeypatch.setattr(module, "WHOLE_BYTES", 3 * PIECE)
    mirror(model.url(), folder)
    assert contents(folder) == MODEL


def test_changed_between_kill_and_resume(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    """Pieces of the old version are thrown away, and small files that are still right kept."""
    folder = tmp_path / "here"
    slow = proxy.add(Fault("/m/", rate=1_000_000.0))
    killed_at(SIZE // 2, proxy, processes.start(model.url(), folder))
    new = some_bytes(PIECES * PIECE, 100)
    model.put("m/large", new)
    slow.times = 0
    mirror(model.url(), folder)
    assert contents(folder) == {**MODEL, "large": new}


def test_one_downloads_and_the_others_wait(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    several = [processes.start(model.url(), tmp_path / "here") for _ in range(3)]
    counts = sorted(map(moved, several))
    assert counts == [0, 0, SIZE]
    assert proxy.sent == SIZE
    assert contents(tmp_path / "here") == MODEL


def test_waiter_goes_on_when_the_first_is_killed(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    # Some 15 s for all of it: the waiter's interpreter has to start meanwhile.
    slow = proxy.add(Fault("/m/", rate=50_000.0))
    first = processes.start(model.url(), tmp_path / "here")
    until(lambda: proxy.sent > (THREADS + 1) * PIECE, 60, "some bytes for the first")
    waiter = processes.start(model.url(), tmp_path / "here")
    until(lambda: sum("list-type" in each.query for each in proxy.seen) > 1, 60, "the waiter")
    slow.times = 0
    killed_at(0, proxy, first)
    assert 0 < moved(waiter) < SIZE
    assert contents(tmp_path / "here") == MODEL
    assert is_whole(tmp_path / "here")


def test_each_node_makes_its_own_copy_at_once(
    model: S3, proxy: Proxy, processes: Processes, tmp_path: Path
) -> None:
    slow = proxy.add(Fault("/m/", rate=200_000.0))
    folders = [tmp_path / node / "models" / "m" for node in "ab"]
    several = [processes.start(model.url(), folder) for folder in folders]
    journals = [folder / ".cai" / "journal" for folder in folders]
    until(lambda: all(path.exists() for path in journals), 60, "both at work")
    assert not any(map(is_whole, folders))
    slow.times = 0
    assert [moved(each) for each in several] == [SIZE, SIZE]
    assert [contents(folder) for folder in folders] == [MODEL, MODEL]
