"""A model's `source` as a local folder that an engine can load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ray_serve_cai.errors import StorageError

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
BUILT_IN_PREFIX = "builtin:"


def fetch(source: str, exclude: Sequence[str] = ()) -> Path:
    """The folder of `source`, downloading a hub id (`org/name[@revision]`) into the cache first.

    `exclude`: patterns of file names that are not downloaded; a local folder is taken as it is.

    Raises `StorageError`: CAI-STORAGE-001 for a folder that cannot be served, CAI-STORAGE-002
    for a failed download or a scheme without support here.
    """
    if source.startswith(BUILT_IN_PREFIX):
        return _built_in(source.removeprefix(BUILT_IN_PREFIX))
    local = local_folder(source)
    if local is not None:
        check_folder(local)
        return local
    if "://" in source:
        scheme = source.split("://", 1)[0]
        raise StorageError(
            "CAI-STORAGE-002",
            f"{source}: reading models from {scheme}:// is not in this version",
            hint="Copy the model to a local folder, or name it by its hub id.",
        )
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
