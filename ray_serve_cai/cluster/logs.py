"""Printing log files: the last lines, those since a moment, and those still to come."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

FOLLOW_SECONDS = 0.3
# Ray, the gateway and our own logs write 2026-11-21 11:48:36; vLLM writes 11-21 11:48:36.
_STAMP = re.compile(r"(?:(\d{4})-)?(\d{2})-(\d{2})[ T](\d{2}:\d{2}:\d{2})")


def print_logs(
    folder: Path,
    patterns: Sequence[str],
    *,
    tail: int,
    since: float | None = None,
    follow: bool = False,
) -> None:
    """Print the files of `folder` that match, each line behind its file's name when there are
    several. `tail` 0 means all; `since` is in seconds; `follow` goes on until interrupted."""
    offsets: dict[Path, int] = {}
    while True:
        paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
        for path in paths:
            first = path not in offsets
            lines, offsets[path] = _read_from(path, offsets.get(path, 0))
            if first:
                lines = _since(lines, since) if since is not None else lines
                lines = lines[-tail:] if tail else lines
            prefix = f"{path.stem} | " if len(paths) > 1 else ""
            for line in lines:
                print(prefix + line, flush=True)
        if not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def _read_from(path: Path, offset: int) -> tuple[list[str], int]:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    return data.decode(errors="replace").splitlines(), offset + len(data)


def _since(lines: Sequence[str], seconds: float) -> list[str]:
    """Lines from the first one stamped late enough; a line without a stamp goes with the last."""
    limit = datetime.now() - timedelta(seconds=seconds)
    return list(_late(lines, limit))


def _late(lines: Sequence[str], limit: datetime) -> Iterator[str]:
    late = False
    for line in lines:
        if found := _STAMP.search(line[:120]):
            year = found[1] or str(limit.year)
            stamp = _parsed(f"{year}-{found[2]}-{found[3]} {found[4]}")
            late = stamp >= limit if stamp else late
        if late:
            yield line


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        # Digits that only look like a date.
        return None
