"""Folders sent to stores, and brought back only when they are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from proxy import Fault, Proxy
from servers import S3, Place, contents, some_bytes
from support import until

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import push as push_module
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.push import push
from ray_serve_cai.storage.watch import Watch

# The last is sent in parts.
CACHE = {
    "a/graph": some_bytes(50_000, 1),
    "empty": b"",
    "b c/ü": b"text",
    "large": some_bytes(18 * 2**20, 2),
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    for name, data in CACHE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(
    params=["s3", "gs", pytest.param("azure", marks=pytest.mark.azure), "file", "path"]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = request.param
    if kind == "s3":
        return Place(request.getfixturevalue("s3").url(), {})
    if kind in ("gs", "azure"):
        there: Place = request.getfixturevalue(kind)
        return there
    return Place(f"{'file://' if kind == 'file' else ''}{tmp_path}/store/m", {})


def test_there_and_back(place: Place, cache: Path, tmp_path: Path) -> None:
    manifest = push(cache, place.url, options=place.options)
    assert {entry.name: entry.size for entry in manifest.files} == {
        name: len(data) for name, data in CACHE.items()
    }
    back = mirror(place.url, tmp_path / "back", options=place.options, pushed=True)
    assert contents(back) == CACHE
    again = mirror(place.url, tmp_path / "again", options=place.options)
    assert contents(again) == CACHE


def test_second_push_sends_what_is_new(place: Place, cache: Path) -> None:
    push(cache, place.url, options=place.options)
    (cache / "new").write_bytes(b"new")
    (cache / "empty").write_bytes(b"not any more")
    watch = Watch()
    push(cache, place.url, options=place.options, watch=watch)
    if place.url.startswith(("s3", "gs")):
        assert watch.moved == len(b"newnot any more")
    system, root = fsspec.core.url_to_fs(place.url, **place.options)
    assert system.cat_file(f"{root}/new") == b"new"
    assert system.cat_file(f"{root}/empty") == b"not any more"


def test_include_and_exclude(s3: S3, cache: Path) -> None:
    push(cache, s3.url(), include=["*a*", "empty"], exclude=["large"])
    assert s3.names() == {"m/a/graph", "m/empty", "m/.cai/manifest.json"}


def test_nothing_to_send(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is nothing to send"):
        push(tmp_path, s3.url())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 503}, {"cut": 0}, {"headers": {"ETag": '"0"'}}]
)
def test_fault_that_ends(
    s3: S3, proxy: Proxy, cache: Path, tmp_path: Path, fault: dict[str, object]
) -> None:
    proxy.add(Fault("m/", method="PUT", times=3, **fault))  # type: ignore[arg-type]
    push(cache, s3.url())
    assert contents(mirror(s3.url(), tmp_path / "back", pushed=True)) == CACHE


@pytest.mark.usefixtures("quick")
def test_fault_that_stays(
    s3: S3, proxy: Proxy, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "_TRIES", 2)
    (cache / "large").unlink()
    proxy.add(Fault("graph", method="PUT", status=500))
    with pytest.raises(StorageError, match=r"a/graph: .*tried 6 times"):
        push(cache, s3.url())
    assert len(proxy.asked("graph", "PUT")) == 6 * 2
    with pytest.raises(StorageError, match="no folder was sent there as a whole"):
        mirror(s3.url(), tmp_path / "back", pushed=True)
    proxy.heal()
    push(cache, s3.url())
    assert len(contents(mirror(s3.url(), tmp_path / "back", pushed=True))) == 3


def test_denied(s3: S3, proxy: Proxy, cache: Path) -> None:
    proxy.add(Fault("m/", method="PUT", status=403))
    proxy.add(Fault("m/", method="POST", status=403))
    with pytest.raises(StorageError, match="access denied"):
        push(cache, s3.url())


def test_killed_and_resumed(s3: S3, proxy: Proxy, cache: Path, tmp_path: Path) -> None:
    """Small files that have arrived are not sent again."""
    (cache / "large").unlink()
    for number in range(40):
        (cache / f"part-{number:02}").write_bytes(some_bytes(1000, number))
    program = (
        "import sys, pathlib; from ray_serve_cai.storage import push as module\n"
        "module.THREADS = 2\n"
        "module.push(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(cache), s3.url()])
    try:
        until(lambda: len(proxy.asked("part", "PUT")) > 15, 60, "some files")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(StorageError, match="no folder was sent there as a whole"):
        mirror(s3.url(), tmp_path / "back", pushed=True)
    proxy.heal()
    push(cache, s3.url())
    assert len(proxy.asked("part", "PUT")) < 30
    assert contents(mirror(s3.url(), tmp_path / "back", pushed=True)) == contents(cache)


@pytest.mark.parametrize("spoil", ["other", "shorter", "gone"])
def test_folder_spoilt_after_it_was_sent(s3: S3, cache: Path, tmp_path: Path, spoil: str) -> None:
    push(cache, s3.url())
    if spoil == "gone":
        s3.remove("m/a/graph")
    else:
        s3.put("m/a/graph", b"other" if spoil == "shorter" else some_bytes(50_000, 9))
    with pytest.raises(StorageError, match="a/graph"):
        mirror(s3.url(), tmp_path / "back", pushed=True)
    assert not (tmp_path / "back/.cai/manifest.json").exists()


def test_foreign_objects_are_no_part_of_a_pushed_folder(
    s3: S3, cache: Path, tmp_path: Path
) -> None:
    push(cache, s3.url())
    s3.put("m/foreign", b"foreign")
    assert contents(mirror(s3.url(), tmp_path / "back", pushed=True)) == CACHE


def test_manifest_that_is_none(s3: S3, tmp_path: Path) -> None:
    s3.put("m/one", b"1")
    s3.put("m/.cai/manifest.json", b"\xff{")
    with pytest.raises(StorageError, match="no folder was sent there as a whole"):
        mirror(s3.url(), tmp_path / "back", pushed=True)


def test_manifest_has_no_secret(s3: S3, cache: Path) -> None:
    push(cache, s3.url(), options={"key": "AKIAOTHERKEY", "secret": "other-secret"})
    said = s3.get("m/.cai/manifest.json").decode()
    assert json.loads(said)["files"]
    assert "AKIAOTHERKEY" not in said
    assert "other-secret" not in said
