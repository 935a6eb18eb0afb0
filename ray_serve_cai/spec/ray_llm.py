"""Ray Serve LLM files (`applications:` with `llm_configs`) as `kind: Model` documents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray_serve_cai.errors import Problem
from ray_serve_cai.spec.base import Fault, KeyPath, format_path
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.ray_llm_model import ModelDraft, complete, move
from ray_serve_cai.spec.ray_llm_table import MAPPING, Row, Scope
from ray_serve_cai.spec.trees import get

_REFUSED = "CAI-SPEC-009"
_WRONG = "CAI-SPEC-004"
_BUILDERS = ("ray.serve.llm:build_openai_app", "ray.serve.llm.build_openai_app")


@dataclass
class Converted:
    """The models, each with remarks on what was left out, and what could not be mapped."""

    models: list[tuple[Origin, tuple[str, ...]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def is_ray_llm(tree: Any) -> bool:
    """Whether a document is a Ray Serve configuration; bare `llm_configs` count, too."""
    return (
        isinstance(tree, dict)
        and "kind" not in tree
        and any(key in tree for key in ("applications", "llm_configs", "args"))
    )


def convert(origin: Origin, resolved: Any) -> Converted:
    """The models of a document. `resolved` is its tree with the variables filled in: counts come
    from there, all else keeps its `${…}` text."""
    work = _Work(origin, resolved)
    for path in work.configs():
        work.model(path)
    return work.result


class _Work:
    def __init__(self, origin: Origin, resolved: Any) -> None:
        self.result = Converted()
        self._notes: list[str] = []
        self._origin = origin
        self._tree = resolved

    def configs(self) -> Iterator[KeyPath]:
        """The paths of all `llm_configs` entries."""
        if "llm_configs" in self._tree:
            yield from self._args(())
            return
        if "args" in self._tree:
            yield from self._application(())
            return
        self._rows("file", (), ())
        for path in self._items(("applications",)):
            yield from self._application(path)

    def model(self, path: KeyPath) -> None:
        """Add the model spec for one `llm_config`, unless it has no model_id."""
        name = (*path, "model_loading_config", "model_id")
        if get(self._tree, name) is None:
            self._wrong(name, "the key is missing")
            return
        shared = len(self._notes)
        model = ModelDraft(self._origin, path)
        for row, at in self._rows("llm_config", path, path):
            if row.fate == "mapped":
                with self._refusals(at):
                    move(model, row, at, get(self._tree, at))
        with self._refusals(path):
            complete(model, get(self._tree, path), path)
        self.result.models.append((model.origin(), tuple(self._notes)))
        del self._notes[shared:]

    def _application(self, path: KeyPath) -> Iterator[KeyPath]:
        self._rows("application", path, path)
        prefix = get(self._tree, (*path, "route_prefix"))
        if prefix not in (None, "/"):
            self._refuse(
                (*path, "route_prefix"), "only / can be used; the gateway routes by model"
            )
        builder = get(self._tree, (*path, "import_path"))
        if builder is not None and builder not in _BUILDERS:
            self._refuse((*path, "import_path"), f"only {_BUILDERS[0]} can be used")
        if isinstance(get(self._tree, (*path, "args")), dict):
            yield from self._args((*path, "args"))
        else:
            self._wrong((*path, "args"), "must be a mapping with llm_configs")

    def _args(self, path: KeyPath) -> Iterator[KeyPath]:
        self._rows("args", path, path)
        yield from self._items((*path, "llm_configs"))

    def _items(self, path: KeyPath) -> Iterator[KeyPath]:
        items = get(self._tree, path)
        if not isinstance(items, list) or not items:
            self._wrong(path, "must be a list with at least one entry")
            return
        for index, item in enumerate(items):
            if isinstance(item, dict):
                yield (*path, index)
            elif isinstance(item, str):
                self._refuse((*path, index), "other files are not read; write the settings here")
            else:
                self._wrong((*path, index), "must be a mapping")

    def _rows(self, scope: Scope, path: KeyPath, start: KeyPath) -> list[tuple[Row, KeyPath]]:
        """The rows that apply below `path`, noting what is ignored and refusing the rest."""
        found: list[tuple[Row, KeyPath]] = []
        for key, value in get(self._tree, path).items():
            at = (*path, key)
            dotted = format_path(at[len(start) :])
            below = any(row.scope == scope and row.key.startswith(dotted + ".") for row in MAPPING)
            row = next((it for it in MAPPING if it.scope == scope and it.key == dotted), None)
            if value is None or (value in ({}, []) and (row is None or row.fate == "refused")):
                continue
            if below and (isinstance(value, dict) or row is None):
                found += self._below(scope, at, start, value)
            elif row is None:
                self._refuse(at, "this setting has no counterpart")
            elif row.fate == "refused":
                self._refuse(at, row.note)
            else:
                self._note(row, at)
                found.append((row, at))
        return found

    def _below(
        self, scope: Scope, at: KeyPath, start: KeyPath, value: Any
    ) -> list[tuple[Row, KeyPath]]:
        if isinstance(value, dict):
            return self._rows(scope, at, start)
        self._wrong(at, "must be a mapping")
        return []

    def _note(self, row: Row, at: KeyPath) -> None:
        if row.fate == "ignored":
            self._notes.append(f"{format_path(at)} is ignored: {row.note}")

    @contextmanager
    def _refusals(self, path: KeyPath) -> Iterator[None]:
        try:
            yield
        except Fault as fault:
            at = fault.at or path
            self.result.problems.append(self._origin.problem(at, fault.code, str(fault)))

    def _refuse(self, path: KeyPath, message: str) -> None:
        self.result.problems.append(self._origin.problem(path, _REFUSED, message, at_key=True))

    def _wrong(self, path: KeyPath, message: str) -> None:
        self.result.problems.append(self._origin.problem(path, _WRONG, message))
