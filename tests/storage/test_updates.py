"""A folder that is brought again after its URL has changed, and what must survive that."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from proxy import Fault, Proxy
from servers import S3, contents, is_whole, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import disk
from ray_serve_cai.storage.checks import is_same
from ray_serve_cai.storage.listing import list_store
from ray_serve_cai.storage.mirror import mirror, whole_copy
from ray_serve_cai.storage.place import place
from ray_serve_cai.storage.stores import open_store

MIB = 2**20


def test_an_update_that_does_not_fit_leaves_the_copy(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("m/a", b"old")
    s3.put("m/gone", b"old")
    folder = mirror(s3.url(), tmp_path / "here")
    s3.put("m/a", b"newer")
    s3.remove("m/gone")
    usage = namedtuple("usage", "free")(3)
    with monkeypatch.context() as full:
        full.setattr(disk.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StorageError) as caught:
            mirror(s3.url(), folder)
    assert caught.value.code == "CAI-STORAGE-004"
    assert contents(folder) == {"a": b"old", "gone": b"old"}
    assert whole_copy(s3.url(), folder)
    mirror(s3.url(), folder)
    assert contents(folder) == {"a": b"newer"}


def test_a_folder_that_became_a_file_and_back(s3: S3, tmp_path: Path) -> None:
    s3.put("m/x/deep/file", b"1")
    folder = mirror(s3.url(), tmp_path / "here")
    s3.remove("m/x/deep/file")
    s3.put("m/x", b"2")
    assert contents(mirror(s3.url(), folder)) == {"x": b"2"}
    s3.remove("m/x")
    s3.put("m/x/deep/file", b"3")
    assert contents(mirror(s3.url(), folder)) == {"x/deep/file": b"3"}


def test_notes_of_another_url_remove_nothing(s3: S3, tmp_path: Path) -> None:
    """Also when the copy of the second URL was cut off."""
    s3.put("one/mine", b"1")
    s3.put("two/a", b"2")
    folder = mirror(s3.url("one"), tmp_path / "here")
    s3.put("two/bad", b"3")
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("ray_serve_cai.storage.transfer.differs", lambda *_: "broken")
        broken.setattr("ray_serve_cai.storage.transfer.LITTLE_BYTES", -1)
        with pytest.raises(StorageError, match="broken"):
            mirror(s3.url("two"), folder)
    assert not is_whole(folder)
    mirror(s3.url("two"), folder)
    assert contents(folder) == {"mine": b"1", "a": b"2", "bad": b"3"}


def test_a_name_that_cannot_be_a_file_can_be_left_out(s3: S3, tmp_path: Path) -> None:
    s3.put("m/good", b"1")
    s3.put("m/bad//name", b"2")
    with pytest.raises(StorageError, match="cannot be a file here"):
        mirror(s3.url(), tmp_path / "here")
    assert contents(mirror(s3.url(), tmp_path / "here", exclude=["bad*"])) == {"good": b"1"}


def test_parts_of_uneven_size(s3: S3, tmp_path: Path) -> None:
    """Their ETag cannot be computed from the first part's size; that is no damage."""
    s3.put_parts("m/x", some_bytes(8 * MIB, 1), some_bytes(6 * MIB, 2), some_bytes(8 * MIB, 3))
    folder = mirror(s3.url(), tmp_path / "here")
    assert (folder / "x").stat().st_size == 22 * MIB
    (remote,) = list_store(open_store(s3.url())).files
    assert not is_same(open_store(s3.url()), remote, folder / "x"), "nor is it a proof"


@pytest.mark.usefixtures("quick")
def test_an_object_is_a_file_also_after_a_refusal(s3: S3, proxy: Proxy, tmp_path: Path) -> None:
    s3.put("m/chat.jinja", b"{{ x }}")
    refused = proxy.add(Fault(method="HEAD", status=503, times=1))
    target = place(s3.url("m/chat.jinja"), tmp_path / "chat.jinja")
    assert refused.times == 0
    assert target.read_bytes() == b"{{ x }}"
    s3.put("m/chat.jinja", b"{{ yy }}")
    assert place(s3.url("m/chat.jinja"), target).read_bytes() == b"{{ yy }}"
    assert {path.name for path in tmp_path.iterdir()} >= {"chat.jinja", ".chat.jinja.cai"}
    shutil.rmtree(tmp_path / ".chat.jinja.cai")
    assert place(s3.url("m/chat.jinja"), target).read_bytes() == b"{{ yy }}"
