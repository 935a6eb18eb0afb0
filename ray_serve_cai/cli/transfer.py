"""How far a transfer is, on a terminal and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ray_serve_cai.storage.disk import in_words
from ray_serve_cai.storage.watch import Watch


class SaidWatch(Watch):
    """Says once what there is to do; with `say` of None nothing."""

    def __init__(self, title: str, say: Callable[[str], None] | None) -> None:
        super().__init__()
        self._title, self._say = title, say

    def plan(self, files: int, size: int) -> None:
        super().plan(files, size)
        if self._say is not None:
            self._say(f"{self._title}: {files} files, {in_words(size)}")


class LiveWatch(Watch):
    """Moves a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__()
        self._progress, self._task = progress, task

    def plan(self, files: int, size: int) -> None:
        super().plan(files, size)
        self._progress.update(self._task, total=size)

    def skip(self, size: int, files: int = 0) -> None:
        super().skip(size, files)
        self._progress.update(self._task, advance=size)

    def move(self, size: int) -> None:
        super().move(size)
        self._progress.update(self._task, advance=size)


@contextmanager
def live(title: str, console: Console) -> Iterator[Watch]:
    """A bar with bytes, rate and time left, wiped at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveWatch(progress, progress.add_task(title, total=None))
