"""What lies below a URL: one listing, with each object's size, version and checksum."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.attempts import judged, retried
from ray_serve_cai.storage.stores import Store

# Our own notes about a folder. They are no content of it.
NOTES = ".cai"
_NAME_BYTES = 255


@dataclass(frozen=True)
class Remote:
    """One object. `name` is relative to the listed URL, `size` in bytes.

    `version` changes when the content does (ETag, generation, time). `checksum` is a kind and its
    value: `md5`, `crc32c` (base64), `sha256`, `git` or `etag` (an ETag of S3); empty for none.
    """

    name: str
    path: str
    size: int
    version: str
    checksum: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Listing:
    store: Store
    files: tuple[Remote, ...]

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files)


def list_store(store: Store, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Listing:
    """The objects below the store's URL whose names the patterns choose.

    Raises `StorageError`: CAI-STORAGE-002 when there is none or the store refuses,
    CAI-STORAGE-003 for a name that cannot be a file below a folder.
    """
    found = retried(store.url, lambda: _found(store))
    root = store.root
    single = set(found) == {root}
    files = [
        remote
        for path, info in sorted(found.items())
        if (remote := remote_of(store, info, path, PurePosixPath(root).name if single else None))
    ]
    if not files:
        raise StorageError("CAI-STORAGE-002", f"{store.url}: there is nothing")
    files = [each for each in files if is_chosen(each.name, include, exclude)]
    if not files:
        raise StorageError("CAI-STORAGE-002", f"{store.url}: nothing there fits the patterns")
    for each in files:
        _check_name(store, each.name)
    _check_tree(store, files)
    return Listing(store, tuple(files))


def remote_of(
    store: Store, info: Mapping[str, Any], path: str, name: str | None = None
) -> Remote | None:
    """The object that fsspec describes; None for folders, their markers and our own notes."""
    name = path[len(store.root) :].removeprefix("/") if name is None else name
    size = int(info.get("size") or 0)
    if info.get("type") == "directory" or (name.endswith("/") and not size) or not name:
        return None
    if name.split("/")[0] == NOTES:
        return None
    return Remote(name, path, size, _version(info), _checksum(store.scheme, info))


def is_chosen(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Patterns are those of a shell, `*` standing for anything, `/` included."""
    if include and not any(fnmatch(name, pattern) for pattern in include):
        return False
    return not any(fnmatch(name, pattern) for pattern in exclude)


def _found(store: Store) -> dict[str, Mapping[str, Any]]:
    system, root = store.system, store.root
    try:
        # What cannot be read must not be missing without a word.
        strict = {"on_error": "raise"} if store.scheme == "file" else {}
        found = system.find(root, detail=True, **strict)
        if isinstance(found, dict) and found:
            return dict(found)
        # Some stores answer a `find` at an object with its bare name.
        info = system.info(root)
    except Exception as error:
        # Each package has exceptions of its own.
        raise judged(store.url, error) from error
    return {root: info} if info.get("type") != "directory" else {}


def _version(info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "generation", "blob_id"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("LastModified", "last_modified", "mtime", "created"):
        if info.get(key):
            when = info[key]
            return str(when.timestamp() if isinstance(when, datetime) else when)
    return ""


def _checksum(scheme: str, info: Mapping[str, Any]) -> tuple[str, str]:
    if scheme == "s3" and info.get("ETag"):
        return "etag", str(info["ETag"]).strip('"')
    if info.get("crc32c"):
        return "crc32c", str(info["crc32c"])
    md5 = info.get("md5Hash") or (info.get("content_settings") or {}).get("content_md5")
    if md5:
        raw = base64.b64decode(md5) if isinstance(md5, str) else bytes(md5)
        return "md5", raw.hex()
    lfs = info.get("lfs")
    if lfs:
        return "sha256", str(lfs["sha256"])
    return ("git", str(info["blob_id"])) if info.get("blob_id") else ("", "")


def _check_name(store: Store, name: str) -> None:
    parts = name.split("/")
    wrong = ""
    if any(part in ("", ".", "..") for part in parts):
        wrong = 'it has an empty part, "." or ".."'
    elif "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        wrong = "it is not text"
    elif any(len(part.encode()) > _NAME_BYTES for part in parts):
        wrong = f"a part of it is longer than {_NAME_BYTES} bytes"
    if wrong:
        raise StorageError(
            "CAI-STORAGE-003", f'{store.url}: the object "{name}" cannot be a file here: {wrong}'
        )


def _check_tree(store: Store, files: Sequence[Remote]) -> None:
    names = {each.name for each in files}
    for name in names:
        for folder in PurePosixPath(name).parents:
            if str(folder) in names:
                raise StorageError(
                    "CAI-STORAGE-003",
                    f'{store.url}: the object "{folder}" cannot be a file and the folder of '
                    f'"{name}"',
                )
