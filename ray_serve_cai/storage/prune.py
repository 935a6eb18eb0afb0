"""The copies in the cache of this machine, and removing those that nobody uses."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ray_serve_cai.storage.disk import disk_error
from ray_serve_cai.storage.listing import NOTES
from ray_serve_cai.storage.notes import MANIFEST, Manifest
from ray_serve_cai.storage.source import (
    HUB_PREFIX,
    cache_folder,
    copy_folder,
    hub_folder,
    hub_lock,
)


@dataclass(frozen=True)
class Copy:
    """A model's files in the cache. `size` in bytes; `source` is empty for one that was never
    brought to its end."""

    folder: Path
    source: str
    size: int


def copies() -> list[Copy]:
    """All models that the cache holds, whole or not."""
    return [*_of_stores(), *_of_hub()]


def unused(sources: Collection[str]) -> list[Copy]:
    """The copies that none of `sources` (URLs, and hub ids with or without revision) needs."""
    kept = {copy_folder(source.rstrip("/")) for source in sources if "://" in source}
    kept |= {hub_folder(source) for source in sources if "://" not in source}
    return [copy for copy in copies() if copy.folder not in kept]


def remove(copy: Copy) -> bool:
    """Remove a copy; False when somebody is bringing or removing it right now.

    Raises `StorageError` when the disk refuses.
    """
    try:
        if copy.folder.parent == _hub():
            with hub_lock(copy.folder).acquire(timeout=0):
                shutil.rmtree(copy.folder)
            return True
        with FileLock(copy.folder / NOTES / "lock", timeout=0):
            # First, so that half of it is never taken for the whole.
            (copy.folder / NOTES / MANIFEST).unlink(missing_ok=True)
            _remove_content(copy.folder)
        return True
    except Timeout:
        return False
    except OSError as error:
        raise disk_error(copy.folder, error) from error


def _of_stores() -> list[Copy]:
    found = []
    for folder in sorted((cache_folder() / "models").glob("*")):
        size = _size(folder)
        manifest = Manifest.read(folder)
        if manifest is not None or size:
            found.append(Copy(folder, manifest.url if manifest else "", size))
    return found


def _of_hub() -> list[Copy]:
    folders = sorted(_hub().glob(f"{HUB_PREFIX}*"))
    return [Copy(folder, _hub_id(folder), _size(folder)) for folder in folders]


def _hub() -> Path:
    return cache_folder() / "hub"


def _hub_id(folder: Path) -> str:
    return folder.name.removeprefix(HUB_PREFIX).replace("--", "/", 1)


def _remove_content(folder: Path) -> None:
    """The lock stays: whoever waits for it must not meet another lock of the same name."""
    for path in folder.iterdir():
        if path.name == NOTES:
            for note in path.iterdir():
                if note.name != "lock":
                    _remove(note)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        # One that is being brought or removed changes meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return found
