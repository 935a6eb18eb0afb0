"""Remote stores by URL: which package reads a scheme, with which options, and what errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ray_serve_cai.errors import StorageError
from ray_serve_cai.storage.libraries import be_silent, options_of, settle

# Scheme: fsspec's own name for it, the module that reads it, the extra that brings the module.
SCHEMES: Mapping[str, tuple[str, str | None, str | None]] = {
    "s3": ("s3", "s3fs", "s3"),
    "gs": ("gs", "gcsfs", "gcs"),
    "abfs": ("abfs", "adlfs", "azure"),
    "abfss": ("abfss", "adlfs", "azure"),
    "azure": ("abfs", "adlfs", "azure"),
    "hf": ("hf", "huggingface_hub", None),
    "file": ("file", None, None),
    "memory": ("memory", None, None),
}
# A signed request's query, and the key of a connection string.
_SECRETS = re.compile(r"\?[^\s'\"<>]*=[^\s'\"<>]*|(?<=AccountKey=)[^;\s]+|(?<=SharedAccess).*")


@dataclass(frozen=True)
class Store:
    """A place in a store: fsspec's filesystem and the path of the URL in it, without a final /."""

    url: str
    system: Any
    root: str

    @property
    def scheme(self) -> str:
        return scheme_of(self.url)


def open_store(url: str, options: Mapping[str, Any] | None = None, tries: int = 1) -> Store:
    """The store at `url`, a path or a URL of one of `SCHEMES`.

    `options` are those of the fsspec filesystem (`key`, `endpoint_url`, `anon`, …); what they do
    not say the store's own library finds (environment, profiles, instance roles). It makes a
    request `tries` times. Raises `StorageError` (CAI-STORAGE-002) for an unknown scheme, a missing
    package, or options that the package does not take.
    """
    check_scheme(url)
    be_silent()
    import fsspec

    scheme = scheme_of(url)
    own_name = SCHEMES[scheme][0]
    plain = os.path.expanduser(url) if scheme == "file" else url
    named = re.sub(r"^\w+(?=://)", own_name, plain)
    # Others write to stores while this process lives, so nothing of them is remembered.
    given = options_of(scheme, options or {}, tries)
    try:
        system, root = fsspec.core.url_to_fs(named, **given)
    except Exception as error:
        # Each package has exceptions of its own.
        raise storage_error(url, error) from error
    settle(system, scheme, tries)
    return Store(url, system, root.rstrip("/"))


def check_scheme(url: str) -> None:
    """Raise `StorageError` (CAI-STORAGE-002) unless the URL's scheme can be read here."""
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        raise StorageError(
            "CAI-STORAGE-002",
            f"{url}: {scheme}:// is not known; there are "
            + ", ".join(f"{name}://" for name in SCHEMES if name != "memory"),
        )
    _, module, extra = SCHEMES[scheme]
    if module is not None and find_spec(module) is None:
        raise StorageError(
            "CAI-STORAGE-002",
            f"{url}: the package {module}, which reads {scheme}://, is not installed",
            hint=f'pip install "ray-serve-cai[{extra}]"',
        )


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/key`; `file` for a plain path."""
    return url.split("://", 1)[0] if "://" in url else "file"


def storage_error(what: str, error: BaseException) -> StorageError:
    """What went wrong with `what`, a URL, in one line and without secrets."""
    if isinstance(error, StorageError):
        return error
    lines = str(error).strip().splitlines() or [""]
    said = scrub(lines[0])
    if isinstance(error, FileNotFoundError) or "NoSuch" in said:
        said = "there is nothing"
    elif is_refused(error):
        said = f"access denied ({said})" if said else "access denied"
    kind = type(error).__name__
    return StorageError("CAI-STORAGE-002", f"{what}: {said or kind}")


def is_refused(error: BaseException) -> bool:
    """Whether the store denies access, for which gcsfs and adlfs have no type of their own."""
    status = getattr(error, "status_code", None)
    return isinstance(error, PermissionError) or status == 403 or str(error)[:9] == "Forbidden"


def scrub(text: str) -> str:
    """Without signatures and keys."""
    return _SECRETS.sub("***", text)
