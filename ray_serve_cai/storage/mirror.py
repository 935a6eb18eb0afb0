"""Local copies of remote folders and files: parallel, resumed, verified, whole or not at all.

A copy is made in place. Files are written below `.cai` in the folder, verified, and renamed into
it; the manifest comes last, and only a folder with one is used. Whoever wants the same folder
waits for the lock, and finds it made or goes on where a dead process stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.disk import disk_error
from ray_serve_cai.storage.listing import NOTES, Listing, list_store
from ray_serve_cai.storage.notes import Manifest
from ray_serve_cai.storage.push import pushed_manifest
from ray_serve_cai.storage.stores import open_store
from ray_serve_cai.storage.transfer import Transfer
from ray_serve_cai.storage.watch import Watch


def mirror(
    url: str,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    watch: Watch | None = None,
    pushed: bool = False,
) -> Path:
    """Make `folder` hold what lies below `url`, a path or a URL of `stores.SCHEMES`.

    A URL that names one object puts it into the folder. Other files in the folder stay; files of
    an earlier copy that are gone at the URL go. `include` and `exclude` are patterns of names, as
    `listing.is_chosen` reads them. A folder that is whole and up to date costs one listing. With
    `pushed`, only a folder that `push` has sent to its end is taken, and as it was sent.

    Raises `StorageError`: CAI-STORAGE-002 when the store refuses or breaks off, with the object's
    name; CAI-STORAGE-003 for names that cannot be files here; CAI-STORAGE-004 for a full disk.
    Afterwards another call goes on where this one stopped.
    """
    store = open_store(url, options)

    def look() -> Listing:
        listing = list_store(store, include, exclude)
        return _as_pushed(listing) if pushed else listing

    # Before anything is made here: most mistakes are in the URL.
    listing = look()
    with _locked(folder) as waited:
        wanted = Manifest(url, (), tuple(include), tuple(exclude))
        Transfer(folder, look() if waited else listing, wanted, watch or Watch()).make()
    return folder


def whole_copy(
    url: str, folder: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> bool:
    """Whether `folder` is a whole copy of `url` as it was at some time, for these patterns."""
    manifest = Manifest.read(folder)
    if manifest is None or manifest.url != url or not manifest.is_intact(folder):
        return False
    # One without patterns has everything.
    same = (manifest.include, manifest.exclude) == (tuple(include), tuple(exclude))
    return same or not (manifest.include or manifest.exclude)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Be the only one to write to the folder; whether that took waiting for another one."""
    parts = folder / NOTES / "parts"
    lock = FileLock(folder / NOTES / "lock")
    waited = False
    try:
        parts.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            lock.acquire()
        try:
            # Its last holder may have removed what was there.
            parts.mkdir(exist_ok=True)
            yield waited
        finally:
            lock.release()
    except OSError as error:
        raise disk_error(folder, error) from error


def _as_pushed(listing: Listing) -> Listing:
    """The listing with the checksums of the manifest that was sent last."""
    store = listing.store
    manifest = pushed_manifest(store)
    if manifest is None:
        raise StorageError("CAI-STORAGE-002", f"{store.url}: no folder was sent there as a whole")
    sent = {entry.name: entry for entry in manifest.files}
    there = {each.name: each for each in listing.files}
    if missing := sorted(set(sent) - set(there)):
        raise StorageError("CAI-STORAGE-002", f"{store.url}: {missing[0]} is not there")
    files = tuple(replace(there[n], checksum=("md5", sent[n].md5)) for n in sorted(sent))
    return Listing(store, files)
