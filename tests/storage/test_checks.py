"""Checksums of the stores: believed where they mean the content, and only there."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import google_crc32c
import pytest
from proxy import Fault, Proxy
from servers import S3, Place, contents, some_bytes

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage import checks, reading
from ray_serve_cai.storage.checks import differs
from ray_serve_cai.storage.listing import list_store
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.stores import open_store

PART = 5 * 2**20
PARTS = (some_bytes(PART, 1), some_bytes(PART, 2), some_bytes(1000, 3))


@pytest.mark.parametrize("parts", [PARTS, PARTS[:1], PARTS[2:]])
def test_object_sent_in_parts(s3: S3, tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    s3.put_parts("m/large", *parts)
    assert contents(mirror(s3.url(), tmp_path)) == {"large": b"".join(parts)}


def test_object_sent_in_parts_and_spoilt(s3: S3, proxy: Proxy, tmp_path: Path) -> None:
    s3.put_parts("m/large", *PARTS)
    proxy.add(Fault("large", flip=True))
    with pytest.raises(StorageError, match=r"m/large: its ETag is \w{32}-3 instead of \w{32}-3"):
        mirror(s3.url(), tmp_path)
    assert contents(tmp_path) == {}


def crc(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


@pytest.mark.parametrize(("kind", "of"), [("CRC32", crc), ("CRC32C", crc32c)])
def test_crcs_of_large_objects(
    s3: S3,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    of: Callable[[bytes], str],
) -> None:
    """S3 is asked for the CRC that the object was sent with; nobody makes an MD5."""
    monkeypatch.setattr(checks, "ASK_BYTES", PART)
    monkeypatch.setattr(checks, "ETAG", replace(checks.ETAG, new=None))
    s3.put_parts("m/large", *PARTS)
    data = b"".join(PARTS)
    name = f"x-amz-checksum-{kind.lower()}"
    head = proxy.add(Fault("large", method="HEAD", headers={name: of(data)}))
    assert contents(mirror(s3.url(), tmp_path / "whole")) == {"large": data}
    (asked,) = proxy.asked("large", "HEAD")
    assert asked.headers["x-amz-checksum-mode"] == "ENABLED"
    sums = b"".join(base64.b64decode(of(part)) for part in PARTS)
    head.headers[name] = f"{of(sums)}-{len(PARTS)}"
    assert contents(mirror(s3.url(), tmp_path / "parts")) == {"large": data}
    head.headers[name] = of(data[1:])
    with pytest.raises(StorageError, match=rf"m/large: its {kind} is \S{{8}} instead of \S{{8}}"):
        mirror(s3.url(), tmp_path / "wrong")
    assert contents(tmp_path / "wrong") == {}


def test_crc_of_unknown_kind_leaves_the_etag(
    s3: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ASK_BYTES", 0)
    s3.put("m/one", b"content")
    proxy.add(Fault("one", method="HEAD", headers={"x-amz-checksum-sha512": "x"}))
    assert contents(mirror(s3.url(), tmp_path)) == {"one": b"content"}
    (remote,) = list_store(open_store(s3.url())).files
    (tmp_path / "one").write_bytes(b"CONTENT")
    assert "its ETag is" in (differs(open_store(s3.url()), remote, tmp_path / "one") or "")


def test_etag_of_an_encrypted_object_is_no_md5(s3: S3, proxy: Proxy, tmp_path: Path) -> None:
    """With a key of KMS an ETag is no checksum; only the HEAD tells that there is one."""
    s3.put("m/one", b"content")
    folder, file = tmp_path / "here", tmp_path / "file"
    file.write_bytes(b"content")
    other = {"ETag": '"' + "0" * 32 + '"'}
    listing = list_store(open_store(s3.url()))
    proxy.add(Fault("one", method="HEAD", headers={"x-amz-server-side-encryption": "aws:kms"}))
    remote = replace(listing.files[0], checksum=("etag", other["ETag"].strip('"')))
    assert differs(listing.store, remote, file) is None
    proxy.heal()
    assert "its ETag is" in (differs(listing.store, remote, file) or "")
    assert not folder.exists()


def test_object_encrypted_with_kms(s3: S3, tmp_path: Path) -> None:
    s3.put("m/one", b"content", ServerSideEncryption="aws:kms")
    assert contents(mirror(s3.url(), tmp_path)) == {"one": b"content"}


def test_md5_and_crc32c_of_google(gs: Place, tmp_path: Path) -> None:
    data = some_bytes(300_000)
    system, root = fsspec.core.url_to_fs(gs.url, **gs.options)
    system.pipe_file(f"{root}/one", data)
    store = open_store(gs.url, gs.options)
    (remote,) = list_store(store).files
    assert remote.checksum == (
        "crc32c",
        base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
    )
    file = tmp_path / "file"
    file.write_bytes(data)
    assert differs(store, remote, file) is None
    file.write_bytes(data[:-1] + b"?")
    assert "its crc32c is" in (differs(store, remote, file) or "")


@pytest.mark.azure
def test_md5_of_azure(azure: Place, tmp_path: Path) -> None:
    data = some_bytes(300_000)
    system, root = fsspec.core.url_to_fs(azure.url, **azure.options)
    system.pipe_file(f"{root}/one", data)
    store = open_store(azure.url, azure.options)
    (remote,) = list_store(store).files
    assert remote.checksum[0] in ("md5", "")
    file = tmp_path / "file"
    file.write_bytes(data)
    assert differs(store, remote, file) is None


def test_changed_object_of_a_store_without_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look tells."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(b"before")
    read = reading.FsspecReader.read

    def change(self: reading.FsspecReader, *args: object) -> None:
        read(self, *args)  # type: ignore[arg-type]
        (source / "one").write_bytes(b"AFTER!")

    monkeypatch.setattr(reading.FsspecReader, "read", change)
    with pytest.raises(StorageError, match="one: it changed while it was read"):
        mirror(str(source), tmp_path / "here")
    monkeypatch.undo()
    assert contents(mirror(str(source), tmp_path / "here")) == {"one": b"AFTER!"}
