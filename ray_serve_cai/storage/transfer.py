"""Bringing the objects of a listing into a folder: pieces, verification, notes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.attempts import Stopped
from ray_serve_cai.storage.checks import differs
from ray_serve_cai.storage.disk import check_room, check_way
from ray_serve_cai.storage.listing import Listing, Remote, is_chosen
from ray_serve_cai.storage.notes import Entry, Journal, Manifest, part_name, part_path
from ray_serve_cai.storage.reading import FsspecReader, Reader, read_range
from ray_serve_cai.storage.stores import Store
from ray_serve_cai.storage.watch import Watch

THREADS = 16
PIECE_BYTES = 8 * 2**20
# Until this size a file is one piece: the first answer of a store takes as long as this much.
WHOLE_BYTES = 2 * PIECE_BYTES
# Until this size its content is held in memory, at most once for each thread.
LITTLE_BYTES = 2**20


class Transfer:
    """One run of `mirror`, under the folder's lock."""

    def __init__(self, folder: Path, listing: Listing, wanted: Manifest, watch: Watch) -> None:
        self._folder, self._listing, self._wanted, self._watch = folder, listing, wanted, watch
        self._reader = _reader(listing.store)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        self._folders: set[str] = set()

    def make(self) -> None:
        self._watch.plan(len(self._listing.files), self._listing.size)
        if self._is_made():
            self._watch.skip(self._listing.size, len(self._listing.files))
            return
        self._journal = Journal.resume(self._folder, PIECE_BYTES)
        todo = [each for each in self._listing.files if not self._has(each)]
        # Before anything of an older copy is touched.
        check_room(self._folder, self._listing.store.url, sum(map(self._missing, todo)))
        gone = self._forget_gone()
        is_older = self._journal.url == self._wanted.url
        self._journal.begin(self._wanted.url)
        try:
            # Those of another URL are somebody else's.
            for name in gone if is_older else ():
                self._remove(name)
            self._journal.forget_parts(todo)
            self._transfer(todo)
            # With those that an earlier copy brought and these patterns leave out.
            known = (entry for _, entry in sorted(self._journal.files.items()))
            files = tuple(entry for entry in known if entry.is_intact(self._folder))
            wanted = self._wanted
            self._journal.finish(Manifest(wanted.url, files, wanted.include, wanted.exclude))
        finally:
            self._journal.close()

    def _is_made(self) -> bool:
        there = Manifest.read(self._folder)
        if there is None or not there.is_intact(self._folder):
            return False
        versions = {entry.name: (entry.size, entry.version) for entry in there.files}
        wanted = {each.name: (each.size, each.version) for each in self._listing.files}
        gone = [name for name in set(versions) - set(wanted) if self._is_chosen(name)]
        return not gone and all(versions.get(name) == each for name, each in wanted.items())

    def _has(self, remote: Remote) -> bool:
        entry = self._journal.files.get(remote.name)
        if entry is None or (entry.size, entry.version) != (remote.size, remote.version):
            return False
        if not entry.is_intact(self._folder):
            return False
        self._watch.skip(remote.size, 1)
        return True

    def _forget_gone(self) -> list[str]:
        """The files of an earlier copy that the listing has no more, patterns permitting."""
        names = {each.name for each in self._listing.files}
        gone = [n for n in self._journal.files if n not in names and self._is_chosen(n)]
        for name in gone:
            del self._journal.files[name]
        return gone

    def _remove(self, name: str) -> None:
        check_way(self._folder, name)
        path = self._folder / name
        path.unlink(missing_ok=True)
        for parent in path.relative_to(self._folder).parents[:-1]:
            # Where an object of that name comes, an empty folder would be in its way.
            with contextlib.suppress(OSError):
                (self._folder / parent).rmdir()

    def _is_chosen(self, name: str) -> bool:
        return is_chosen(name, self._wanted.include, self._wanted.exclude)

    def _missing(self, remote: Remote) -> int:
        """Bytes of the disk that the object still needs."""
        done = self._pieces_done(remote)
        return remote.size - sum(stop - start for start, stop in map(_span(remote), done))

    def _pieces_done(self, remote: Remote) -> set[int]:
        if _piece_count(remote) == 1:
            return set()
        path = part_path(self._folder, remote)
        there = path.is_file() and path.stat().st_size == remote.size
        return self._journal.pieces.get(part_name(remote), set()) if there else set()

    def _transfer(self, todo: Sequence[Remote]) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="mirror") as pool:
            try:
                running = [future for remote in todo for future in self._submit(pool, remote)]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _submit(self, pool: ThreadPoolExecutor, remote: Remote) -> list[Future[None]]:
        count = _piece_count(remote)
        if count == 1:
            return [pool.submit(self._whole, remote)]
        path = part_path(self._folder, remote)
        done = self._pieces_done(remote)
        for piece in done:
            start, stop = _span(remote)(piece)
            self._watch.skip(stop - start)
        if not done:
            self._journal.part_begun(part_name(remote))
            with path.open("wb") as file:
                file.truncate(remote.size)
        left = [piece for piece in range(count) if piece not in done]
        self._left[remote.name] = len(left)
        if not left:
            return [pool.submit(self._finish, remote, path)]
        return [pool.submit(self._piece, remote, piece) for piece in left]

    def _whole(self, remote: Remote) -> None:
        if self._stop.is_set():
            return
        if remote.size <= LITTLE_BYTES:
            self._little(remote)
            return
        part = part_path(self._folder, remote)
        with part.open("wb") as file:
            self._read(remote, 0, remote.size, file.fileno())
        self._finish(remote, part)

    def _little(self, remote: Remote) -> None:
        """As `_whole`, with the content in memory: of thousands of small files system calls take
        most of the time, since each hands the interpreter to another thread."""
        data = bytearray()
        if remote.size:
            read_range(self._reader, remote, 0, remote.size, data.extend, self._stop)
        self._watch.move(len(data))
        part = part_path(self._folder, remote)
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write(file, memoryview(data), 0)
        finally:
            os.close(file)
        self._finish(remote, part, hashlib.md5(data, usedforsecurity=False).hexdigest())

    def _piece(self, remote: Remote, piece: int) -> None:
        if self._stop.is_set():
            return
        start, stop = _span(remote)(piece)
        part = part_path(self._folder, remote)
        with part.open("r+b") as file:
            self._read(remote, start, stop, file.fileno())
        self._journal.piece_done(part_name(remote), piece)
        with self._lock:
            self._left[remote.name] -= 1
            last = not self._left[remote.name]
        if last:
            self._finish(remote, part)

    def _read(self, remote: Remote, start: int, stop: int, file: int) -> None:
        at = start

        def write(block: bytes | memoryview) -> None:
            nonlocal at
            if self._stop.is_set():
                raise Stopped
            _write(file, memoryview(block), at)
            at += len(block)
            self._watch.move(len(block))

        read_range(self._reader, remote, start, stop, write, self._stop)

    def _finish(self, remote: Remote, part: Path, md5: str = "") -> None:
        """Verify the part and put it in its place; `md5` of its content when that is known."""
        known = bool(md5) and remote.checksum in (("etag", md5), ("md5", md5))
        if not known and (wrong := differs(self._listing.store, remote, part)):
            # From the start next time: nobody knows which bytes are wrong.
            part.unlink()
            raise StorageError("CAI-STORAGE-002", f"{remote.path}: {wrong}")
        target = os.path.join(self._folder, remote.name)
        parent = os.path.dirname(target)
        if parent not in self._folders:
            check_way(self._folder, remote.name)
            os.makedirs(parent, exist_ok=True)
            self._folders.add(parent)
        os.rename(part, target)
        modified = os.stat(target).st_mtime_ns
        self._journal.file_done(Entry(remote.name, remote.size, remote.version, modified))
        self._watch.finish_file()


def _write(file: int, view: memoryview, at: int) -> None:
    while view:
        written = os.pwrite(file, view, at)
        at, view = at + written, view[written:]


def _reader(store: Store) -> Reader:
    plain = FsspecReader(store)
    if store.scheme == "s3":
        from ray_serve_cai.storage.signed import SignedReader

        if SignedReader.suits(store):
            return SignedReader(store, plain)
    return plain


def _piece_count(remote: Remote) -> int:
    return 1 if remote.size <= WHOLE_BYTES else -(-remote.size // PIECE_BYTES)


def _span(remote: Remote) -> Callable[[int], tuple[int, int]]:
    """Piece number to its first byte and the one after its last."""

    def span(piece: int) -> tuple[int, int]:
        start = piece * PIECE_BYTES
        return start, min(start + PIECE_BYTES, remote.size)

    return span
