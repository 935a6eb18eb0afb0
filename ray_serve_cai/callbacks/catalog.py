"""Which callbacks there are, and what one of them does; for `cai callbacks`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.build import GIVEN, is_of_family, resolve_class
from ray_serve_cai.callbacks.check import hook_faults, importable
from ray_serve_cai.callbacks.hooks import POINT_OF, ROWS, hooks_of
from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec import MASK, Document, is_secret_name, masked

BUILT_IN = ("ray_serve_cai.callbacks.CloudDownloader", "ray_serve_cai.callbacks.CompileCache")
GROUP = "ray_serve_cai.callbacks"
FOLDER = "callbacks"


@dataclass(frozen=True)
class Listed:
    """One callback of the list. `kwargs` are the constructor's parameters, or what a spec gives.

    Where the class cannot be had, `summary` says why and the rest is empty.
    """

    path: str
    summary: str
    source: str
    hooks: tuple[str, ...] = ()
    kwargs: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "summary": self.summary,
            "hooks": list(self.hooks),
            "kwargs": list(self.kwargs),
            "source": self.source,
        }


def list_callbacks(project: Path, models: Iterable[Document] = ()) -> list[Listed]:
    """Those built in, of the project's `callbacks/`, of installed packages, and of the models."""
    rows = [_named(path, "built in") for path in BUILT_IN]
    rows += of_project(project)
    # Not the names: two packages may use the same one.
    for point in sorted(entry_points(group=GROUP), key=lambda it: it.value):
        rows.append(_of_package(point))
    for document in models:
        rows += _of_model(document)
    return rows


def of_project(project: Path) -> list[Listed]:
    """The public classes with hooks that the files of `callbacks/` define."""
    rows: list[Listed] = []
    with importable(project):
        for file in sorted((project / FOLDER).glob("*.py")):
            if not file.name.startswith("_"):
                rows += _of_file(file, file.relative_to(project).as_posix())
    return rows


def describe(path: str) -> dict[str, Any]:
    """What `cai callbacks show` says of the class; raises `SpecError` (CAI-SPEC-010)."""
    kind = resolve_class(path)
    return {
        "path": path,
        "doc": _doc(kind),
        "constructor": f"{kind.__name__}({', '.join(_parameters(kind))})",
        "hooks": [_hook(hook) for hook in hooks_of(kind)],
        "faults": hook_faults(kind),
    }


def _named(path: str, source: str) -> Listed:
    try:
        return _listed(path, resolve_class(path), source)
    except SpecError as error:
        return Listed(path, error.message, source)


def _of_file(file: Path, source: str) -> list[Listed]:
    name = f"{FOLDER}.{file.stem}"
    if not file.stem.isidentifier():
        return [Listed(name, "no dotted path can name a file that is called so", source)]
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        return [Listed(name, f"cannot be imported: {type(error).__name__}: {error}", source)]
    return [
        _listed(f"{name}.{kind.__name__}", kind, source)
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and kind.__module__ == name
        and not kind.__name__.startswith("_")
        and hooks_of(kind)
    ]


def _of_package(point: EntryPoint) -> Listed:
    source = point.dist.name if point.dist else "an installed package"
    path = f"{point.module}:{point.attr}" if point.attr else point.module
    return _named(path, source)


def _of_model(document: Document) -> list[Listed]:
    given = masked(document)["callbacks"]
    rows = []
    with importable(document.project):
        for callback, shown in zip(document.model.callbacks, given, strict=True):
            row = _named(callback.class_path, document.origin.shown)
            kwargs = tuple(f"{name}={value!r}" for name, value in shown["kwargs"].items())
            rows.append(Listed(row.path, row.summary, row.source, row.hooks, kwargs))
    return rows


def _listed(path: str, kind: type[Any], source: str) -> Listed:
    lines = _doc(kind).splitlines()
    return Listed(path, lines[0] if lines else "", source, hooks_of(kind), _parameters(kind))


def _doc(kind: type[Any]) -> str:
    # Not `inspect.getdoc`: a class without words would show those of its base.
    return inspect.cleandoc(kind.__doc__ or "")


def _parameters(kind: type[Any]) -> tuple[str, ...]:
    """What a spec may give; the arguments that every class of the family gets are left out."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (ValueError, TypeError):
        # Classes written in C may have no signature.
        return ("...",)
    left_out = (*GIVEN, "ctx_kwargs") if is_of_family(kind) else ()
    return tuple(_parameter(it) for it in parameters if it.name not in left_out)


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    if parameter.default is parameter.empty:
        return parameter.name
    hidden = is_secret_name(parameter.name) and parameter.default
    return f"{parameter.name}={MASK if hidden else repr(parameter.default)}"


def _hook(hook: str) -> dict[str, Any]:
    row = ROWS[POINT_OF[hook]]
    skips = dict(row.false_skips).get(hook)
    return {"name": hook, "point": row.point.value, "where": row.where, "false_skips": skips}
