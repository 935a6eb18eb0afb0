"""Checksums of local files, compared with what the store says of its objects."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ray_serve_cai.storage.attempts import judged, retried
from ray_serve_cai.storage.listing import Remote, remote_of
from ray_serve_cai.storage.stores import Store

log = logging.getLogger(__name__)

_BLOCK_BYTES = 2**20


def differs(store: Store, remote: Remote, file: Path) -> str | None:
    """Why the file is not the object; None when nothing speaks against it.

    Raises `StorageError` when the store must be asked and does not answer.
    """
    size = file.stat().st_size
    if size != remote.size:
        return f"{size} bytes instead of {remote.size}"
    found = _compared(store, remote, file)
    if found is True:
        return None
    # Without a checksum that fits, only another look tells whether it was read as it was listed.
    if _has_changed(store, remote):
        return "it changed while it was read"
    return found or None


def is_same(store: Store, remote: Remote, file: Path) -> bool:
    """Whether a checksum of the store says that the file is the object. Raises as `differs`."""
    return file.stat().st_size == remote.size and _compared(store, remote, file) is True


def md5_of(file: Path) -> str:
    """The MD5 of a file's content, as hex."""
    return _hashed(hashlib.md5(usedforsecurity=False), file)


def _compared(store: Store, remote: Remote, file: Path) -> Literal[True] | str:
    """True when a checksum fits, else what is wrong; empty text when there is none to compare."""
    kind, wanted = remote.checksum
    if kind == "etag":
        return _compared_with_etag(store, remote, file)
    if kind not in _SUMS:
        return ""
    found = _SUMS[kind](file, remote.size)
    return True if found == wanted else f"its {kind} is {found} instead of {wanted}"


def _has_changed(store: Store, remote: Remote) -> bool:
    def look() -> Remote | None:
        try:
            return remote_of(store, store.system.info(remote.path), remote.path, remote.name)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise judged(remote.path, error) from error

    now = retried(remote.path, look)
    return now is None or (now.size, now.version) != (remote.size, remote.version)


def _compared_with_etag(store: Store, remote: Remote, file: Path) -> Literal[True] | str:
    """An ETag of S3 is the content's MD5, or the MD5 of its parts' MD5s, unless the object is
    encrypted with a key of the customer's or of KMS
    (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)."""
    etag = remote.checksum[1]
    digest, _, count = etag.partition("-")
    parts = int(count) if count.isdecimal() else 0
    if len(digest) != 32 or (count and not parts):
        return ""
    part = _part_bytes(store, remote, parts) if parts else None
    if parts and part is None:
        log.debug("%s: its ETag cannot be computed here", remote.path)
        return ""
    found = f"{_md5_of_parts(file, part)}-{parts}" if part else md5_of(file)
    if found == etag:
        return True
    if _is_encrypted(store, remote) or (part and not _are_even(store, remote, part, parts)):
        return ""
    return f"its ETag is {found} instead of {etag}"


def _part_bytes(store: Store, remote: Remote, parts: int) -> int | None:
    """How large the parts were that the object was uploaded in."""
    head = _head(store, remote, PartNumber=1)
    size = int(head.get("ContentLength") or 0)
    # A store that knows no parts answers with the whole object.
    return size if size and -(-remote.size // size) == parts else None


def _are_even(store: Store, remote: Remote, part: int, parts: int) -> bool:
    """Whether all parts but the last have that size."""
    sizes = (_head(store, remote, PartNumber=number) for number in range(2, parts))
    return all(int(head.get("ContentLength") or 0) == part for head in sizes)


def _is_encrypted(store: Store, remote: Remote) -> bool:
    head = _head(store, remote)
    kms = str(head.get("ServerSideEncryption") or "").startswith("aws:kms")
    return kms or bool(head.get("SSECustomerAlgorithm"))


def _head(store: Store, remote: Remote, **more: Any) -> dict[str, Any]:
    bucket, key, _ = store.system.split_path(remote.path)

    def ask() -> dict[str, Any]:
        try:
            return dict(store.system.call_s3("head_object", Bucket=bucket, Key=key, **more))
        except Exception as error:
            # botocore and aiohttp have exceptions of their own.
            raise judged(remote.path, error) from error

    return retried(remote.path, ask)


def _md5_of_parts(file: Path, part: int) -> str:
    sums = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while block := content.read(min(part, _BLOCK_BYTES)):
            one = hashlib.md5(block, usedforsecurity=False)
            left = part - len(block)
            while left and (block := content.read(min(left, _BLOCK_BYTES))):
                one.update(block)
                left -= len(block)
            sums.update(one.digest())
    return sums.hexdigest()


def _hashed(sums: Any, file: Path) -> str:
    for block in _blocks(file):
        sums.update(block)
    return str(sums.hexdigest())


def _git(file: Path, size: int) -> str:
    return _hashed(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), file)


def _crc32c(file: Path, _: int) -> str:
    # Comes with gcsfs, and only its stores have this checksum.
    import google_crc32c

    sums = google_crc32c.Checksum()
    for block in _blocks(file):
        sums.update(bytes(block))
    return base64.b64encode(sums.digest()).decode()


def _blocks(file: Path) -> Iterator[memoryview]:
    buffer = bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            yield view[:count]


_SUMS: dict[str, Callable[[Path, int], str]] = {
    "md5": lambda file, _: md5_of(file),
    "sha256": lambda file, _: _hashed(hashlib.sha256(), file),
    "git": _git,
    "crc32c": _crc32c,
}
