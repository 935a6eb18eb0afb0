"""Folders made, kept up to date and left alone, against real stores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from proxy import Proxy
from servers import S3, contents, is_whole, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import transfer
from ray_serve_cai.storage.listing import list_store
from ray_serve_cai.storage.mirror import mirror, whole_copy
from ray_serve_cai.storage.stores import open_store
from ray_serve_cai.storage.watch import Watch

MODEL = {
    "config.json": b"{}",
    "empty": b"",
    "deep/er/weights.bin": some_bytes(300_000, 1),
    "tokenizer.json": some_bytes(5_000, 2),
}


@pytest.fixture
def model(s3: S3) -> S3:
    for name, data in MODEL.items():
        s3.put(f"m/{name}", data)
    return s3


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 50_000)
    monkeypatch.setattr(transfer, "WHOLE_BYTES", 100_000)


def refused(url: str, folder: Path) -> StorageError:
    with pytest.raises(StorageError) as caught:
        mirror(url, folder)
    return caught.value


@pytest.mark.parametrize("end", ["", "/"])
def test_folder(model: S3, tmp_path: Path, end: str) -> None:
    watch = Watch()
    folder = mirror(model.url() + end, tmp_path / "here", watch=watch)
    assert contents(folder) == MODEL
    assert whole_copy(model.url() + end, folder)
    size = sum(map(len, MODEL.values()))
    assert (watch.files, watch.files_done, watch.size, watch.moved) == (4, 4, size, size)
    assert [path.name for path in (folder / ".cai").iterdir() if path.name != "lock"] == [
        "manifest.json"
    ]


def test_whole_bucket(model: S3, tmp_path: Path) -> None:
    folder = mirror(f"s3://{model.bucket}", tmp_path / "here")
    assert contents(folder) == {f"m/{name}": data for name, data in MODEL.items()}


@pytest.mark.usefixtures("small_pieces")
def test_large_files_come_in_pieces(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    assert contents(mirror(model.url(), tmp_path / "here")) == MODEL
    ranges = {each.headers.get("Range") for each in proxy.asked("weights.bin")}
    assert ranges == {f"bytes={at}-{at + 49_999}" for at in range(0, 300_000, 50_000)}
    assert proxy.sent == sum(map(len, MODEL.values()))


def test_url_is_one_object(model: S3, tmp_path: Path) -> None:
    folder = mirror(model.url("m/tokenizer.json"), tmp_path / "here")
    assert contents(folder) == {"tokenizer.json": MODEL["tokenizer.json"]}


def test_url_is_one_empty_object(model: S3, tmp_path: Path) -> None:
    assert contents(mirror(model.url("m/empty"), tmp_path / "here")) == {"empty": b""}


@pytest.mark.parametrize("prefix", ["nothing", "nothing/", "m/confi"])
def test_empty_prefix(model: S3, tmp_path: Path, prefix: str) -> None:
    error = refused(model.url(prefix), tmp_path / "here")
    assert error.code == "CAI-STORAGE-002"
    assert error.message == f"{model.url(prefix)}: there is nothing"
    assert not is_whole(tmp_path / "here")


def test_no_such_bucket(s3: S3, tmp_path: Path) -> None:
    assert "there is nothing" in refused("s3://no-such-bucket/m", tmp_path / "here").message


def test_prefix_of_markers_only(s3: S3, tmp_path: Path) -> None:
    s3.put("m/")
    s3.put("m/sub/")
    assert "there is nothing" in refused(s3.url(), tmp_path / "here").message


def test_second_call_costs_one_listing(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    mirror(model.url(), tmp_path / "here")
    proxy.heal()
    watch = Watch()
    mirror(model.url(), tmp_path / "here", watch=watch)
    assert len(proxy.seen) == 1
    assert (watch.moved, watch.there, watch.files_done) == (0, watch.size, 4)


def test_update(model: S3, proxy: Proxy, tmp_path: Path) -> None:
    folder = mirror(model.url(), tmp_path / "here")
    model.put("m/config.json", b"[]")
    model.put("m/new", b"new")
    model.remove("m/tokenizer.json")
    proxy.heal()
    mirror(model.url(), folder)
    now = {**MODEL, "config.json": b"[]", "new": b"new"}
    del now["tokenizer.json"]
    assert contents(folder) == now
    assert {each.path.rsplit("/")[-1] for each in proxy.asked()} == {"config.json", "new"}


def test_foreign_files_stay(model: S3, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/mine").write_text("mine")
    mirror(model.url(), folder)
    model.remove("m/deep/er/weights.bin")
    mirror(model.url(), folder)
    assert (folder / "deep/mine").read_text() == "mine"
    assert not (folder / "deep/er/weights.bin").exists()


@pytest.mark.parametrize("edit", ["size", "time", "gone"])
def test_edited_file_comes_again(model: S3, proxy: Proxy, tmp_path: Path, edit: str) -> None:
    folder = mirror(model.url(), tmp_path / "here")
    edited = folder / "tokenizer.json"
    if edit == "size":
        edited.write_bytes(b"other")
    elif edit == "time":
        os.utime(edited, ns=(1, 1))
    else:
        edited.unlink()
    assert not whole_copy(model.url(), folder)
    proxy.heal()
    mirror(model.url(), folder)
    assert contents(folder) == MODEL
    assert len(proxy.asked()) == 1


def test_include_and_exclude(model: S3, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    mirror(model.url(), folder, include=["*.json"], exclude=["tok*"])
    assert set(contents(folder)) == {"config.json"}
    assert whole_copy(model.url(), folder, ["*.json"], ["tok*"])
    assert not whole_copy(model.url(), folder)
    mirror(model.url(), folder, include=["deep/*"])
    assert set(contents(folder)) == {"config.json", "deep/er/weights.bin"}
    mirror(model.url(), folder)
    assert contents(folder) == MODEL


def test_other_patterns_need_no_transfer_of_what_is_there(
    model: S3, proxy: Proxy, tmp_path: Path
) -> None:
    folder = mirror(model.url(), tmp_path / "here", include=["*.bin"])
    proxy.heal()
    mirror(model.url(), folder)
    assert not proxy.asked("weights.bin")
    assert contents(folder) == MODEL


def test_nothing_chosen(model: S3, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing"):
        mirror(model.url(), tmp_path / "here", include=["*.gguf"])


def test_listing_asks_once(model: S3, proxy: Proxy) -> None:
    listing = list_store(open_store(model.url()))
    assert {each.name: each.size for each in listing.files} == {
        name: len(data) for name, data in MODEL.items()
    }
    assert len(proxy.seen) == 1


def test_files_of_another_url_stay(model: S3, tmp_path: Path) -> None:
    folder = mirror(model.url(), tmp_path / "here")
    before = contents(folder)
    model.put("other/config.json", b"{ }")
    mirror(model.url("other"), folder)
    assert contents(folder) == {**before, "config.json": b"{ }"}
    assert whole_copy(model.url("other"), folder)
    assert not whole_copy(model.url(), folder)
    mirror(model.url(), folder)
    assert contents(folder) == before
