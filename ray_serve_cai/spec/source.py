"""Where a model's files come from: the forms that `source` of a model spec takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ray_serve_cai.spec.base import Fault, quoted

SOURCE_PATTERN = r"^(\.{0,2}/|~|[A-Za-z0-9]).*$"

_STORES = ("s3", "gs", "abfss", "azure")
_BUILTIN = ("demo",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[\w./-]+")
_FORMS = "a hub id (org/name), a path (./folder) or a URL (s3://bucket/folder)"


@dataclass(frozen=True)
class Source:
    """A model source taken apart.

    `location` is a hub id, an absolute path, a URL with its scheme, or the name of a built-in
    model. `revision` is set for hub ids only.
    """

    kind: Literal["hub", "local", "remote", "builtin"]
    location: str
    revision: str | None = None

    def __str__(self) -> str:
        """The source in one text, a local path being absolute."""
        if self.kind == "builtin":
            return f"builtin:{self.location}"
        return f"{self.location}@{self.revision}" if self.revision else self.location


def parse_source(text: str, folder: Path) -> Source:
    """Take `text` apart; relative paths are below `folder`. Raises `Fault`."""
    if text.startswith(("./", "../", "/", "~")) or text in {".", ".."}:
        return _local(text, folder)
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _from_scheme(scheme, rest, text, folder)
    return _hub(text, text)


def check_source(value: object) -> object:
    """The validator: refuses text that `parse_source` cannot take apart."""
    if isinstance(value, str):
        parse_source(value, Path("/"))
    return value


def _from_scheme(scheme: str, rest: str, text: str, folder: Path) -> Source:
    if scheme == "builtin":
        if rest not in _BUILTIN:
            raise Fault(f"there is no built-in model {quoted(rest)}; there is builtin:demo")
        return Source("builtin", rest)
    if not rest.startswith("//"):
        raise Fault(f"must be {_FORMS}, not {quoted(text)}")
    if scheme == "hf":
        return _hub(rest[2:], text)
    if scheme == "file":
        return _from_file_url(rest[2:], folder)
    if scheme in _STORES:
        return _remote(scheme, rest[2:])
    known = ", ".join(f"{name}://" for name in (*_STORES, "hf", "file"))
    raise Fault(f"there is no store {quoted(scheme + '://')}; known are {known}")


def _from_file_url(rest: str, folder: Path) -> Source:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise Fault("a file:// source needs an absolute path: file:///models/name")
    return _local(path, folder)


def _remote(scheme: str, rest: str) -> Source:
    if not rest.strip("/") or rest.startswith("/") or re.search(r"\s", rest):
        raise Fault(f"must name a bucket and a folder: {scheme}://bucket/folder")
    return Source("remote", f"{scheme}://{rest}")


def _local(text: str, folder: Path) -> Source:
    if "\0" in text:
        raise Fault("must not contain a NUL character")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise Fault(f"there is no home folder for {quoted(text.split('/')[0])}") from None
    return Source("local", str(folder / path))


def _hub(text: str, written: str) -> Source:
    name, at, revision = text.partition("@")
    if not _HUB_ID.fullmatch(name):
        raise Fault(f"must be {_FORMS}, not {quoted(written)}")
    if at and not _REVISION.fullmatch(revision):
        raise Fault(f"needs a branch, tag or commit after @, not {quoted(revision)}")
    return Source("hub", name, revision if at else None)
