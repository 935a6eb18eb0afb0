"""Copies of remote or local files and folders."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import fsspec
from filelock import FileLock

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.source import cache_folder


def mirror(url: str, target: Path) -> Path:
    """Copy the file or folder at `url`, a path or anything that fsspec reads, to `target`.

    `target` is replaced as a whole once everything is there; others who want the same wait.
    Raises `StorageError` (CAI-STORAGE-002).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_path(target)):
            return _mirror(url, target)
    except OSError as error:
        raise StorageError("CAI-STORAGE-002", f"{target}: {error.strerror}") from error


def _lock_path(target: Path) -> Path:
    """Not beside the target, whose folder is the user's."""
    name = hashlib.sha256(str(target.absolute()).encode()).hexdigest()[:32]
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"


def _mirror(url: str, target: Path) -> Path:
    # Under the lock whatever lies there was left by a process that died.
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    holder = Path(tempfile.mkdtemp(".partial", f".{target.name}.", target.parent))
    partial = holder / target.name
    try:
        system, path = fsspec.core.url_to_fs(os.path.expanduser(url))
        if not system.exists(path):
            raise FileNotFoundError("there is nothing")
        system.get(path.rstrip("/"), str(partial), recursive=system.isdir(path))
        _replace(partial, target)
    except Exception as error:
        # Each store's client has exceptions of its own.
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError("CAI-STORAGE-002", f"{url}: {said[0]}") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
    return target


def _replace(partial: Path, target: Path) -> None:
    before = partial.with_name("before")
    if there := os.path.lexists(target):
        os.rename(target, before)
    try:
        os.rename(partial, target)
    except OSError:
        if there:
            os.rename(before, target)
        raise
