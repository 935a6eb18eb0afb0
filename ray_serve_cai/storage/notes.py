"""What is known of a mirrored folder: the manifest of a whole one, the journal of one in work.

Both live in `.cai` inside the folder, with the lock and the parts of files that are being written.
The journal is a line for each step, so that a process that is killed at any moment leaves what the
next one needs; lines about small files are written together, for 8 MiB of files at most. It
survives the death of processes, not of the machine: for that the checksums are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ray_serve_cai.files import READABLE, replace_text
from ray_serve_cai.storage.listing import NOTES, Remote

MANIFEST = "manifest.json"
_FORMAT = 1
_WAITING_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Entry:
    """A file that has been verified. `modified` is its own time, in ns, as it was then."""

    name: str
    size: int
    version: str
    modified: int
    md5: str = ""

    def is_intact(self, folder: Path) -> bool:
        """Whether the file is still what was verified."""
        try:
            found = os.stat(os.path.join(folder, self.name))
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.modified)


@dataclass(frozen=True)
class Manifest:
    """The files of a folder that is whole."""

    url: str
    files: tuple[Entry, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The folder's manifest; None when it has none, or one that cannot be read."""
        try:
            return cls.parse((folder / NOTES / MANIFEST).read_text())
        except (OSError, ValueError):
            return None

    @classmethod
    def parse(cls, text: str) -> Manifest | None:
        """What `text` makes; None for another format, or none."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                return None
            files = tuple(Entry(**each) for each in data["files"])
            return cls(data["url"], files, tuple(data["include"]), tuple(data["exclude"]))
        except (ValueError, TypeError, KeyError):
            return None

    def text(self) -> str:
        # Without indentation: only so does the compiled encoder make it.
        return json.dumps({"format": _FORMAT, **vars(self), "files": list(map(vars, self.files))})

    def write(self, folder: Path) -> None:
        replace_text(folder / NOTES / MANIFEST, self.text(), mode=READABLE, durable=True)

    def is_intact(self, folder: Path) -> bool:
        """Whether every file is there as it was verified."""
        return all(each.is_intact(folder) for each in self.files)


@dataclass
class Journal:
    """The steps done so far: pieces of files by the file's `part_name`, and whole files.

    Pieces of another size than `piece_bytes`, as another release has made them, do not count.
    """

    folder: Path
    piece_bytes: int
    # Of the copy that the notes are about.
    url: str = ""
    pieces: dict[str, set[int]] = field(default_factory=dict)
    files: dict[str, Entry] = field(default_factory=dict)
    _lines: TextIO | None = None
    # Bytes of files whose lines are not written yet.
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def resume(cls, folder: Path, piece_bytes: int) -> Journal:
        """What earlier processes have done for this folder."""
        journal = cls(folder, piece_bytes)
        path = folder / NOTES / "journal"
        journal._read(path)
        manifest = Manifest.read(folder)
        if manifest is not None:
            journal.url = manifest.url
            journal.files = {entry.name: entry for entry in manifest.files}
        return journal

    def begin(self, url: str) -> None:
        """From here on the folder is not whole, until `finish`. Notes of another URL are left."""
        path = self.folder / NOTES / "journal"
        if self.url != url:
            path.unlink(missing_ok=True)
            self.pieces = {}
        is_cut = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._lines = path.open("a")
        if is_cut:
            self._lines.write("\n")
        self.url = url
        self._line({"url": url})
        for entry in self.files.values():
            self._line({"file": vars(entry)})
        self._flush()
        (self.folder / NOTES / MANIFEST).unlink(missing_ok=True)

    def part_begun(self, part: str) -> None:
        """The part is written from its start: pieces of an earlier one of this name are gone."""
        with self._lock:
            self.pieces[part] = set()
            self._line({"part": part})
            self._flush()

    def piece_done(self, part: str, piece: int) -> None:
        with self._lock:
            self.pieces.setdefault(part, set()).add(piece)
            self._line({"part": part, "piece": piece, "bytes": self.piece_bytes})
            self._flush()

    def file_done(self, entry: Entry) -> None:
        with self._lock:
            self.files[entry.name] = entry
            self._line({"file": vars(entry)})
            self._waiting += entry.size
            if self._waiting >= _WAITING_BYTES:
                self._flush()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def finish(self, manifest: Manifest) -> None:
        """The folder is whole."""
        self.close()
        manifest.write(self.folder)
        (self.folder / NOTES / "journal").unlink()
        shutil.rmtree(self.folder / NOTES / "parts", ignore_errors=True)

    def forget_parts(self, wanted: Sequence[Remote]) -> None:
        """Remove parts of objects that are not wanted any more, or not in that version."""
        names = {part_name(remote) for remote in wanted}
        for path in (self.folder / NOTES / "parts").glob("*"):
            if path.stem not in names:
                path.unlink()

    def _read(self, path: Path) -> None:
        for line in _whole_lines(path):
            if "file" in line:
                entry = Entry(**line["file"])
                self.files[entry.name] = entry
            elif "url" in line:
                self.url = line["url"]
            elif "piece" in line:
                if line["bytes"] == self.piece_bytes:
                    self.pieces.setdefault(line["part"], set()).add(line["piece"])
            else:
                self.pieces[line["part"]] = set()

    def _line(self, data: dict[str, Any]) -> None:
        assert self._lines is not None
        self._lines.write(json.dumps(data) + "\n")

    def _flush(self) -> None:
        assert self._lines is not None
        self._lines.flush()
        self._waiting = 0


def part_name(remote: Remote) -> str:
    """The name under which the parts of this version of the object are kept."""
    words = "\0".join((remote.name, remote.version, str(remote.size)))
    return hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()[:32]


def part_path(folder: Path, remote: Remote) -> Path:
    return folder / NOTES / "parts" / f"{part_name(remote)}.partial"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """A process that was killed may have left half a line."""
    with contextlib.suppress(FileNotFoundError), path.open() as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
