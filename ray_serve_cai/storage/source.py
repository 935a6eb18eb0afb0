"""A model's `source` as a local folder that an engine can load."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.watch import Watch

log = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
BUILT_IN_PREFIX = "builtin:"
HUB_PREFIX = "models--"


def fetch(
    source: str,
    exclude: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Path:
    """The folder of `source`; a hub id (`org/name[@revision]`) or URL is brought into the cache.

    `exclude`: patterns of file names that are not downloaded; a local folder is taken as it is.
    `options`: those of the store. A copy that is whole serves when the store does not answer.

    Raises `StorageError`: CAI-STORAGE-001 for a folder that cannot be served, else as
    `storage.mirror`.
    """
    if source.startswith(BUILT_IN_PREFIX):
        return _built_in(source.removeprefix(BUILT_IN_PREFIX))
    local = local_folder(source)
    if local is not None:
        check_folder(local)
        return local
    if source.startswith("hf://"):
        source = source.removeprefix("hf://")
    if "://" in source:
        return _from_store(source, exclude, options, watch)
    return _from_hub(source, exclude)


def local_folder(source: str) -> Path | None:
    """The path of a source on this machine's disk; None for hub ids, URLs and built-in models."""
    if source.startswith("file://"):
        return Path(source.removeprefix("file://"))
    if source.startswith(("/", "./", "../", "~")):
        return Path(source).expanduser()
    return None


def check_folder(folder: Path) -> None:
    """Raise `StorageError` (CAI-STORAGE-001) unless `folder` holds a model."""
    if not folder.is_dir():
        raise StorageError("CAI-STORAGE-001", f"{folder}: there is no such folder")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise StorageError(
            "CAI-STORAGE-001", f"{folder}: no weights there (looked for {', '.join(WEIGHTS)})"
        )
    if not (folder / "config.json").is_file() and next(folder.glob("*.gguf"), None) is None:
        raise StorageError("CAI-STORAGE-001", f"{folder}: no config.json there")


def cache_folder() -> Path:
    """Where downloads go: `$CAI_CACHE`, by default `~/.cache/cai`."""
    return Path(os.environ.get("CAI_CACHE") or "~/.cache/cai").expanduser()


def copy_folder(url: str) -> Path:
    """Where the cache keeps the copy of a URL."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    words = re.sub(r"[^\w.-]+", "-", url.split("://", 1)[-1]).strip("-")
    return cache_folder() / "models" / f"{words[-80:]}-{digest}"


def hub_folder(source: str) -> Path:
    """Where huggingface_hub keeps the repository of a hub id, with or without revision."""
    return cache_folder() / "hub" / f"{HUB_PREFIX}{source.split('@')[0].replace('/', '--')}"


def hub_lock(folder: Path) -> FileLock:
    """Held while a repository's folder is filled or removed. Raises OSError."""
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{folder.name}.cai")


def _from_store(
    url: str, exclude: Sequence[str], options: Mapping[str, Any] | None, watch: Watch | None
) -> Path:
    # fsspec and its stores take a while to import, and most models come from elsewhere.
    from ray_serve_cai.storage.mirror import mirror, whole_copy

    url = url.rstrip("/")
    folder = copy_folder(url)
    try:
        mirror(url, folder, options=options, exclude=exclude, watch=watch)
    except StorageError as error:
        if not whole_copy(url, folder, exclude=exclude):
            raise
        log.warning("%s; the copy in %s serves, as it was brought before", error, folder)
    return folder


def _built_in(name: str) -> Path:
    folder = Path(__file__).parent.parent / name / "model"
    if name != "demo" or not folder.is_dir():
        raise StorageError("CAI-STORAGE-001", f'there is no built-in model "{name}"; try demo')
    return folder


def _from_hub(source: str, exclude: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    try:
        with contextlib.ExitStack() as held:
            # A cache that cannot be written to is not pruned either.
            with contextlib.suppress(OSError):
                held.enter_context(hub_lock(hub_folder(source)))
            return Path(
                huggingface_hub.snapshot_download(
                    repository,
                    revision=revision or None,
                    cache_dir=cache_folder() / "hub",
                    ignore_patterns=list(exclude) or None,
                )
            )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StorageError("CAI-STORAGE-002", f"{source}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
