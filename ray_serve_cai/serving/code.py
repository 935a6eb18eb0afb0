"""The user's own packages on their way from the project to replicas on other machines.

They travel inside the job, as data. Ray's `py_modules` would do as well while a driver is
connected, but Ray forgets such a package some minutes after its last user has gone, and a replica
that starts later would not find it.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ray_serve_cai.errors import SpecError

LIMIT_BYTES = 10 * 2**20


def pack(project: Path, dotted_paths: Iterable[str]) -> str:
    """The top-level packages and modules that the paths name, as far as they lie in the project.

    Base64 of a zip file; empty for nothing. Raises `SpecError` (CAI-SPEC-010) above 10 MiB.
    """
    names = sorted({path.split(":")[0].split(".")[0] for path in dotted_paths})
    files = [file for name in names for file in _files(project, name)]
    if not files:
        return ""
    size = sum(file.stat().st_size for file in files)
    if size > LIMIT_BYTES:
        raise SpecError(
            "CAI-SPEC-010",
            f"{', '.join(names)}: {size / 2**20:.0f} MiB of code is too much to send to replicas",
            hint=f"Keep data out of the package; the limit is {LIMIT_BYTES // 2**20} MiB.",
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Without its time stamp: equal code must give equal bytes.
            name = zipfile.ZipInfo(file.relative_to(project).as_posix())
            archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return base64.b64encode(packed.getvalue()).decode()


def unpack(code: str, folder: Path) -> None:
    """Write what `pack` made into `folder`."""
    if code:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(code))) as archive:
            archive.extractall(folder)


def _files(project: Path, name: str) -> Iterator[Path]:
    module = project / f"{name}.py"
    if module.is_file():
        yield module
    for file in sorted((project / name).rglob("*")):
        if file.is_file() and not _is_left_out(file.relative_to(project)):
            yield file


def _is_left_out(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
