"""Checksums of local files, compared with what the store says of its objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ray_serve_cai.storage.attempts import judged, retried
from ray_serve_cai.storage.listing import Remote, remote_of
from ray_serve_cai.storage.stores import Store
from ray_serve_cai.storage.sums import CRC32C, ETAG, MD5, SHA256, Sum, crcs, git_of

log = logging.getLogger(__name__)

# An MD5 takes ten times as long as a CRC. Of objects larger than this S3 is asked for one: that
# takes as long as the MD5 of this much.
ASK_BYTES = 16 * 2**20


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
    return MD5.of(file)


def _compared(store: Store, remote: Remote, file: Path) -> Literal[True] | str:
    """True when a checksum fits, else what is wrong; empty text when there is none to compare."""
    kind, wanted = remote.checksum
    if kind == "etag":
        return _compared_with_s3(store, remote, file)
    if kind not in _SUMS:
        return ""
    found = _SUMS[kind](file)
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


def _compared_with_s3(store: Store, remote: Remote, file: Path) -> Literal[True] | str:
    """S3 keeps the checksum that an object was sent with, if any, and of newer objects one of its
    own (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html)."""
    if remote.size > ASK_BYTES:
        head = _head(store, remote, ChecksumMode="ENABLED")
        for kind in crcs():
            wanted = str(head.get(f"Checksum{kind.name}") or "")
            if wanted and (found := _compared_with(kind, wanted, store, remote, file)):
                return found
    return _compared_with_etag(store, remote, file)


def _compared_with_etag(store: Store, remote: Remote, file: Path) -> Literal[True] | str:
    """An ETag of S3 is the content's MD5, or the MD5 of its parts' MD5s, unless the object is
    encrypted with a key of the customer's or of KMS
    (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)."""
    etag = remote.checksum[1]
    if len(etag.split("-")[0]) != 32:
        return ""
    found = _compared_with(ETAG, etag, store, remote, file)
    return "" if found is not True and found and _is_encrypted(store, remote) else found


def _compared_with(
    kind: Sum, wanted: str, store: Store, remote: Remote, file: Path
) -> Literal[True] | str:
    """With a sum of the whole, or with that of the sums of as many parts as it ends with."""
    _, dash, count = wanted.partition("-")
    parts = int(count) if count.isdecimal() else 0
    if dash and not parts:
        return ""
    part = _part_bytes(store, remote, parts) if parts else None
    if parts and part is None:
        log.debug("%s: its %s cannot be computed here", remote.path, kind.name)
        return ""
    found = f"{kind.of_parts(file, part)}-{parts}" if part else kind.of(file)
    if found == wanted:
        return True
    if part and not _are_even(store, remote, part, parts):
        return ""
    return f"its {kind.name} is {found} instead of {wanted}"


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


_SUMS: dict[str, Callable[[Path], str]] = {
    "md5": MD5.of,
    "sha256": SHA256.of,
    "git": git_of,
    "crc32c": CRC32C.of,
}
