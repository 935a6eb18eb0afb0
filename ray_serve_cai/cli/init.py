"""`cai init`: a project to start from, with the specs that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json
from ray_serve_cai.errors import CaiError

if TYPE_CHECKING:
    from rich.console import Console

_FOLDERS = ("cluster_configs", "callbacks")
_SUFFIXES = (".yaml", ".py", ".md")


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to write; made if it is not there.")
    ] = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that are there.")
    ] = False,
    json: Json = False,
) -> None:
    """Write example cluster and model specs into a folder."""
    files = dict(_shipped())
    _refuse_to_overwrite([folder / path for path in files], force)
    for path, source in files.items():
        _write(folder / path, source.read_bytes())
    written = [str(folder / path) for path in files]

    def show(console: Console) -> None:
        for path in written:
            console.print(path, soft_wrap=True)

    output.emit({"files": written}, json=json, text=show)
    specs = folder / "cluster_configs"
    output.say(
        "Next:\n"
        f"  cai cluster up {specs / 'local.yaml'}\n"
        f"  cai model deploy {specs / 'models' / 'demo.yaml'}"
    )


def shipped_folder(name: str) -> Traversable | None:
    """A folder that comes with `cai`: package data, or beside the package of a checkout."""
    package = resources.files("ray_serve_cai")
    packed = package / "project" / name
    if packed.is_dir():
        return packed
    beside = Path(str(package)).parent
    if (beside / "pyproject.toml").is_file() and (beside / name).is_dir():
        return beside / name
    return None


def _shipped() -> Iterator[tuple[Path, Traversable]]:
    for name in _FOLDERS:
        found = shipped_folder(name)
        if found is not None:
            yield from _files(found, Path(name))


def _files(folder: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _files(item, path / item.name)
        elif item.name.endswith(_SUFFIXES):
            yield path / item.name, item


def _refuse_to_overwrite(targets: list[Path], force: bool) -> None:
    there = [target for target in targets if target.exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise CaiError("CAI-CLI-004", f"{there[0]}{more} would be overwritten")


def _write(target: Path, data: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise CaiError(
            "CAI-CLI-001",
            f"{target} cannot be written: {error.strerror}",
            hint="Choose another folder.",
        ) from error
