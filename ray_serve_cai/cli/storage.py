"""`cai storage`: models and caches in stores, and the copies of them on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_serve_cai.cli import output
from ray_serve_cai.cli.options import Json, Yes
from ray_serve_cai.errors import CaiError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="List, pull and push files of s3://, gs://, abfss://, azure:// and hf://.")

Url = Annotated[str, typer.Argument(metavar="URL", help="Such as s3://bucket/folder, or a path.")]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only names like this. May be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="No names like this. May be repeated."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the store's fsspec package, such as anon=true or "
        "endpoint_url=http://host:9000. May be repeated; secrets belong in the environment.",
    ),
]


@app.command("ls")
def list_objects(
    url: Url,
    include: Include = None,
    exclude: Exclude = None,
    option: Options = None,
    json: Json = False,
) -> None:
    """List the objects below a URL, with their sizes in bytes."""
    from ray_serve_cai.storage.listing import list_store
    from ray_serve_cai.storage.stores import open_store

    listing = list_store(open_store(url, _options(option)), include or (), exclude or ())
    rows = [{"name": f.name, "size": f.size, "version": f.version} for f in listing.files]

    def show(console: Console) -> None:
        console.print(output.table(rows, ("size", "name")))

    output.emit({"url": url, "files": rows, "bytes": listing.size}, json=json, text=show)


@app.command()
def pull(
    url: Url,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")],
    include: Include = None,
    exclude: Exclude = None,
    option: Options = None,
    json: Json = False,
) -> None:
    """Make a folder hold what lies below a URL. Run again, it goes on where it stopped.

    The last line on stdout is the folder.
    """
    from ray_serve_cai.storage.mirror import mirror

    begun = time.monotonic()
    with output.transfer("storage pull", json=json) as watch:
        mirror(
            url,
            folder,
            options=_options(option),
            include=include or (),
            exclude=exclude or (),
            watch=watch,
        )
    _report({"url": url, "folder": str(folder)}, watch, begun, json=json)
    output.last_line(str(folder), json=json)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What is sent.")],
    url: Url,
    include: Include = None,
    exclude: Exclude = None,
    option: Options = None,
    json: Json = False,
) -> None:
    """Copy a folder to a URL. Run again, it sends only what is not there.

    The last line on stdout is the URL.
    """
    from ray_serve_cai.storage.push import push as push_folder

    begun = time.monotonic()
    with output.transfer("storage push", json=json) as watch:
        push_folder(
            folder,
            url,
            options=_options(option),
            include=include or (),
            exclude=exclude or (),
            watch=watch,
        )
    _report({"url": url, "folder": str(folder)}, watch, begun, json=json)
    output.last_line(url, json=json)


@app.command()
def prune(yes: Yes = False, json: Json = False) -> None:
    """Remove this machine's copies of models that no model of a cluster names.

    Clusters are those of the state folder ($CAI_HOME); on a machine without it every copy counts
    as unused.
    """
    from ray_serve_cai.storage.disk import in_words
    from ray_serve_cai.storage.prune import remove, unused

    found = unused(_sources())
    if found:
        lines = [f"{in_words(c.size)}  {c.source or 'unfinished'}  {c.folder}" for c in found]
        total = in_words(sum(copy.size for copy in found))
        if not json:
            output.say("\n".join(lines))
        output.confirm(f"Remove {_counted(len(found))}, {total}?", yes)
    gone = [copy for copy in found if remove(copy)]
    freed = sum(copy.size for copy in gone)
    if not json:
        output.say(f"storage prune: {_counted(len(gone))} removed, {in_words(freed)} free again")
    rows = [{"source": c.source, "folder": str(c.folder), "size": c.size} for c in gone]
    output.emit({"removed": rows, "bytes": freed}, json=json)


def _options(words: list[str] | None) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise CaiError("CAI-CLI-001", f"--option is KEY=VALUE, not {name!r}")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise CaiError("CAI-CLI-001", f"--option {name}: the value is no YAML") from error
    return options


def _report(names: dict[str, str], watch: Any, begun: float, *, json: bool) -> None:
    from ray_serve_cai.storage.disk import in_words

    seconds = time.monotonic() - begun
    if not json:
        rate = in_words(watch.moved / seconds)
        there = f", {in_words(watch.there)} were there" if watch.there else ""
        output.say(f"{watch.files} files, {in_words(watch.moved)} moved ({rate}/s){there}")
    data = {"files": watch.files, "bytes": watch.size, "moved": watch.moved}
    output.emit({**names, **data, "seconds": round(seconds, 3)}, json=json)


def _counted(copies: int) -> str:
    return "1 copy" if copies == 1 else f"{copies} copies"


def _sources() -> set[str]:
    """What the models of all clusters are made from."""
    from ray_serve_cai.cluster.state import all_clusters
    from ray_serve_cai.serving.revisions import Revisions

    found = set()
    for state in all_clusters():
        revisions = Revisions(state)
        for model in revisions.models():
            for record in revisions.shown(model):
                found.add(str(revisions.document(record).source))
    return found
