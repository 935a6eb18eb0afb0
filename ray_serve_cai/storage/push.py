"""Copies of a local folder in a store: parallel, resumed, verified, whole or not marked as such.

The folder's manifest is sent last, as `.cai/manifest.json`. Whoever must not read half a folder
asks `mirror` for a `pushed` one: it has a manifest, and every file is the one named there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.attempts import Broken, judged, retried
from ray_serve_cai.storage.checks import differs, is_same, md5_of
from ray_serve_cai.storage.disk import disk_error
from ray_serve_cai.storage.listing import NOTES, Remote, is_chosen, list_store, remote_of
from ray_serve_cai.storage.notes import MANIFEST, Entry, Manifest
from ray_serve_cai.storage.stores import Store, open_store
from ray_serve_cai.storage.watch import Watch

THREADS = 8
# What a store's library holds in memory for each file, more than once. S3 takes no smaller ones,
# and 10,000 of them.
_PART_BYTES = 5 * 2**20
_MOST_PARTS = 10_000
# Of a part of a large file; the file as a whole is tried again, too.
_TRIES = 4


def push(
    folder: Path,
    url: str,
    *,
    options: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    watch: Watch | None = None,
) -> Manifest:
    """Copy the files of `folder` below `url`; the manifest that is now there.

    Objects that are there already, with the same content, are not sent again; others of the store
    stay. Links are followed. Raises `StorageError` (CAI-STORAGE-001) for a folder without files,
    and as `mirror` does. Afterwards another call goes on where this one stopped.
    """
    files = _local_files(folder, include, exclude)
    watch = watch or Watch()
    watch.plan(len(files), sum(path.stat().st_size for path in files.values()))
    store = open_store(url, options, _TRIES)
    there = _there(store)
    sender = _Sender(store, there, watch)
    try:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="push") as pool:
            running = [pool.submit(sender.send, name, path) for name, path in files.items()]
            try:
                entries = tuple(future.result() for future in running)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    except OSError as error:
        raise disk_error(folder, error) from error
    manifest = Manifest(url, entries)
    sender.write(f"{store.root}/{NOTES}/{MANIFEST}", manifest.text().encode())
    return manifest


def pushed_manifest(store: Store) -> Manifest | None:
    """The manifest of a folder that was pushed there; None when there is none.

    Raises `StorageError` when the store does not say.
    """

    def read() -> bytes | None:
        try:
            data: bytes = store.system.cat_file(f"{store.root}/{NOTES}/{MANIFEST}")
        except FileNotFoundError:
            return None
        except Exception as error:
            if "NoSuch" in str(error):
                return None
            raise judged(store.url, error) from error
        return data

    data = retried(store.url, read)
    return Manifest.parse(data.decode(errors="replace")) if data is not None else None


class _Sender:
    def __init__(self, store: Store, there: Mapping[str, Remote], watch: Watch) -> None:
        self._store, self._there, self._watch = store, there, watch

    def send(self, name: str, path: Path) -> Entry:
        before = path.stat()
        md5 = md5_of(path)
        found = self._there.get(name)
        if found is not None and is_same(self._store, found, path):
            self._watch.skip(before.st_size, 1)
        else:
            found = retried(str(path), lambda: self._send(name, path))
            self._watch.move(before.st_size)
            self._watch.finish_file()
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise StorageError("CAI-STORAGE-002", f"{path}: it changed while it was sent")
        return Entry(name, before.st_size, found.version, before.st_mtime_ns, md5)

    def write(self, path: str, data: bytes) -> None:
        def call() -> None:
            try:
                self._make_folder(path)
                self._store.system.pipe_file(path, data)
            except Exception as error:
                raise judged(path, error) from error

        retried(path, call)

    def _send(self, name: str, path: Path) -> Remote:
        """Raises `Broken` when it can be tried again."""
        system, target = self._store.system, f"{self._store.root}/{name}"
        # A store shows an object once it is whole; a file system does not.
        is_disk = self._store.scheme == "file"
        sent = f"{target}.partial" if is_disk else target
        try:
            self._make_folder(target)
            system.put_file(str(path), sent, **_options(self._store.scheme, path))
            if is_disk:
                system.mv(sent, target)
            found = remote_of(self._store, system.info(target), target, name)
        except Exception as error:
            raise judged(target, error) from error
        wrong = "it is not there" if found is None else differs(self._store, found, path)
        if found is None or wrong:
            raise Broken(f"after sending, {wrong}")
        return found

    def _make_folder(self, path: str) -> None:
        if self._store.scheme == "file":
            Path(path).parent.mkdir(parents=True, exist_ok=True)


def _there(store: Store) -> dict[str, Remote]:
    try:
        return {each.name: each for each in list_store(store).files}
    except StorageError as error:
        # Nothing there yet; what else may be wrong, sending will say.
        if error.code == "CAI-STORAGE-002":
            return {}
        raise


def _local_files(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> dict[str, Path]:
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != NOTES
    }
    chosen = {n: path for n, path in found.items() if is_chosen(n, include, exclude)}
    if not chosen:
        raise StorageError("CAI-STORAGE-001", f"{folder}: there is nothing to send")
    return chosen


def _options(scheme: str, file: Path) -> dict[str, Any]:
    part = max(_PART_BYTES, -(-file.stat().st_size // _MOST_PARTS))
    if scheme == "s3":
        return {"chunksize": part, "max_concurrency": 1}
    if scheme == "gs":
        return {"chunksize": _PART_BYTES, "consistency": "md5"}
    return {"overwrite": True, "max_concurrency": 1} if scheme.startswith("a") else {}
