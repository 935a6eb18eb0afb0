"""Files that are replaced whole: a reader finds the old one or the new, never a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
# To whom the user's umask lets it.
READABLE = 0o666


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """The block makes the path that it gets, which then takes the place of `path` at once.

    After a failure the old one is as it was, and nothing of the new one is left.
    """
    # Two processes may be at it; the last one wins.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str, *, mode: int = PRIVATE, durable: bool = False) -> None:
    """Put the text there with these permissions; with `durable` it survives the machine's end.

    Raises `OSError`.
    """
    with replaced(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(descriptor)
