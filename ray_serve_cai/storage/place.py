"""What a URL names at a local path: an object as a file, everything else as a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ray_serve_cai.files import replaced
from ray_serve_cai.storage.attempts import judged, retried
from ray_serve_cai.storage.disk import disk_error
from ray_serve_cai.storage.listing import NOTES
from ray_serve_cai.storage.mirror import mirror
from ray_serve_cai.storage.stores import Store, open_store


def place(
    url: str,
    target: Path,
    *,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Make `target` what `url` names, as `mirror` does for folders. An object becomes the file
    `target`, or goes into it when it is a folder. Raises as `mirror` does."""
    if url.endswith("/") or target.is_dir() or not _is_object(open_store(url, options)):
        return mirror(url, target, options=options)
    # With the notes that make it whole and resumable; the file itself is there once.
    holder = target.parent / f".{target.name}.cai"
    mirror(url, holder, options=options)
    (brought,) = (path for path in holder.iterdir() if path.is_file())
    try:
        with FileLock(holder / NOTES / "place"):
            if not (target.exists() and target.samefile(brought)):
                _link(brought, target)
    except OSError as error:
        raise disk_error(holder, error) from error
    return target


def _is_object(store: Store) -> bool:
    def look() -> bool:
        try:
            return bool(store.system.info(store.root)["type"] == "file")
        except FileNotFoundError:
            return False
        except Exception as error:
            # Each package has exceptions of its own.
            raise judged(store.url, error) from error

    return retried(store.url, look)


def _link(brought: Path, target: Path) -> None:
    with replaced(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(brought, partial)
        except OSError:
            # A file system without links, or with too many.
            shutil.copyfile(brought, partial)
