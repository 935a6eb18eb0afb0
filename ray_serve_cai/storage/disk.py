"""Room on the disk, and what its errors mean."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path, PurePosixPath

from ray_serve_cai.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT)
# Manifest, journal and folders need some, too.
SPARE_BYTES = 2**20


def check_room(folder: Path, url: str, size: int) -> None:
    """Raise `StorageError` (CAI-STORAGE-004) unless `size` more bytes fit where `folder` is."""
    free = shutil.disk_usage(folder).free
    if size and size + SPARE_BYTES > free:
        raise StorageError(
            "CAI-STORAGE-004",
            f"{url}: {in_words(size)} are still to come, and {folder} has {in_words(free)} free; "
            f"{in_words(size + SPARE_BYTES - free)} are missing",
        )


def check_way(folder: Path, name: str) -> None:
    """Raise `StorageError` (CAI-STORAGE-003) when a link in `folder` leads to `name`."""
    for parent in PurePosixPath(name).parents:
        if parent.name and (folder / parent).is_symlink():
            raise StorageError(
                "CAI-STORAGE-003",
                f"{folder / parent}: it is a link, and files of a copy are not put through links",
            )


def disk_error(folder: Path, error: OSError) -> StorageError:
    """What the local disk refused."""
    if error.errno in FULL:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        return StorageError(
            "CAI-STORAGE-004",
            f"{folder}: the disk became full ({in_words(free)} free); what is there is kept",
        )
    return StorageError("CAI-STORAGE-002", f"{error.filename or folder}: {error.strerror}")


def in_words(size: float) -> str:
    """`1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
