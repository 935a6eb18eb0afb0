"""Who wants to know how a transfer goes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Watch:
    """Counts of one transfer, read by whoever shows them. Sizes are in bytes.

    `there` is what needed no transfer, `moved` what this process has transferred, bytes that had
    to be fetched again included.
    """

    files: int = 0
    size: int = 0
    files_done: int = 0
    there: int = 0
    moved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def plan(self, files: int, size: int) -> None:
        """What there is to do altogether."""
        self.files, self.size = files, size

    def skip(self, size: int, files: int = 0) -> None:
        with self._lock:
            self.there += size
            self.files_done += files

    def move(self, size: int) -> None:
        with self._lock:
            self.moved += size

    def finish_file(self) -> None:
        with self._lock:
            self.files_done += 1
