"""Sums of files: MD5 and CRCs, of the whole or of its parts' sums, as stores write them."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Sum:
    """A kind of sum. `new` makes one like those of hashlib, `written` its text."""

    name: str
    new: Callable[[], Any]
    written: Callable[[bytes], str] = bytes.hex

    def of(self, file: Path) -> str:
        return self.written(self._digest(file, 0, file.stat().st_size))

    def of_parts(self, file: Path, part: int) -> str:
        """Of the sums of the file's parts, each of `part` bytes but the last."""
        sums = self.new()
        for start in range(0, file.stat().st_size, part):
            sums.update(self._digest(file, start, part))
        return self.written(sums.digest())

    def _digest(self, file: Path, start: int, size: int) -> bytes:
        sums = self.new()
        for block in _blocks(file, start, size):
            sums.update(block)
        return bytes(sums.digest())


class _Crc:
    """`step`: data and the CRC before it to the one after."""

    def __init__(self, step: Callable[[Any, int], int], size: int) -> None:
        self._step, self._size, self._value = step, size, 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _crc32c() -> _Crc:
    import google_crc32c

    return _Crc(lambda data, before: google_crc32c.extend(before, bytes(data)), 4)


def _crc64nvme() -> _Crc:
    from awscrt import checksums

    return _Crc(checksums.crc64nvme, 8)


MD5 = Sum("MD5", lambda: hashlib.md5(usedforsecurity=False))
ETAG = Sum("ETag", MD5.new)
SHA256 = Sum("sha256", hashlib.sha256)
CRC32C = Sum("CRC32C", _crc32c, _base64)
_CRC32 = Sum("CRC32", lambda: _Crc(zlib.crc32, 4), _base64)
_CRC64NVME = Sum("CRC64NVME", _crc64nvme, _base64)


def git_of(file: Path) -> str:
    """The name of the file's content in Git."""
    size = file.stat().st_size
    sums = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    for block in _blocks(file, 0, size):
        sums.update(block)
    return sums.hexdigest()


def crcs() -> Iterator[Sum]:
    """Those of S3 that can be computed here."""
    yield _CRC32
    if find_spec("google_crc32c"):
        yield CRC32C
    if find_spec("awscrt"):
        yield _CRC64NVME


def _blocks(file: Path, start: int, size: int) -> Iterator[memoryview]:
    """At most `size` bytes of the file; each block is valid until the next is asked for."""
    view = memoryview(bytearray(min(size, _BLOCK_BYTES)))
    with file.open("rb", buffering=0) as content:
        content.seek(start)
        while size and (count := content.readinto(view[:size])):
            size -= count
            yield view[:count]
