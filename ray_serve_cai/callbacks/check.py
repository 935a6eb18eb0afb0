"""Checks of `callbacks` that need the user's code: the class is there and takes the arguments."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks.build import GIVEN, is_of_family, resolve_class
from ray_serve_cai.callbacks.hooks import HOOKS, hooks_of
from ray_serve_cai.errors import Problem, SpecError, SpecProblems
from ray_serve_cai.spec.base import KeyPath, quoted
from ray_serve_cai.spec.document import Document
from ray_serve_cai.spec.model import Callback, ModelSpec
from ray_serve_cai.spec.translate import did_you_mean

_WRONG = "CAI-SPEC-004"
_UNKNOWN = "CAI-SPEC-003"


def check_callbacks(document: Document) -> list[Problem]:
    """Import a model's callbacks from its project; compare `kwargs` with the constructors."""
    if not isinstance(document.spec, ModelSpec) or not document.spec.callbacks:
        return []
    problems: list[Problem] = []
    with importable(document.project):
        for index, callback in enumerate(document.spec.callbacks):
            problems += _check(document, ("callbacks", index), callback)
    return problems


def require_callbacks(document: Document) -> None:
    """Raise `SpecProblems` with what `check_callbacks` finds."""
    if problems := check_callbacks(document):
        raise SpecProblems(problems)


def hook_faults(found: type[Any]) -> list[str]:
    """What is wrong with a class's hooks: misspelt, not callable, taking too much, or none."""
    faults = []
    for name in dir(found):
        if not name.startswith("on_"):
            continue
        if name not in HOOKS and callable(getattr(found, name, None)):
            near = did_you_mean(name, HOOKS)
            faults.append(f"{found.__name__}.{name} is no hook{near or '; see docs/callbacks.md'}")
        elif name in HOOKS and not callable(getattr(found, name, None)):
            faults.append(f"{found.__name__}.{name} cannot be called, so it never runs")
        elif name in HOOKS and (needed := _needs_more(found, name)):
            given = "the context and the error" if name == "on_failure" else "the context"
            faults.append(f"{found.__name__}.{name} needs {needed}; it is given {given} at most")
    if not faults and not hooks_of(found):
        faults.append(f"{found.__name__} defines no hook, so it never runs")
    return faults


def _needs_more(found: type[Any], name: str) -> str:
    """The arguments without a default that nobody gives to a hook; empty when it can be called."""
    hook = inspect.getattr_static(found, name)
    if not inspect.isfunction(hook):
        # A static method, a partial or a callable object: its signature may not be what counts.
        return ""
    parameters = list(inspect.signature(hook).parameters.values())[1:]
    alone = [it.name for it in parameters if it.default is it.empty and it.kind is it.KEYWORD_ONLY]
    positional = [
        it.name
        for it in parameters
        if it.default is it.empty and it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)
    ]
    most = 2 if name == "on_failure" else 1
    return ", ".join([*positional[most:], *alone])


@contextmanager
def importable(project: Path) -> Iterator[None]:
    """Inside, modules of the project folder can be imported; afterwards they are forgotten, so
    that two projects may both have a package called `callbacks`."""
    folder = str(project)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # Before the path changes: a package without `__init__.py` follows it at once.
        ours = [name for name in set(sys.modules) - before if _lies_in(sys.modules[name], project)]
        if folder in sys.path:
            sys.path.remove(folder)
        for name in ours:
            del sys.modules[name]


def _lies_in(module: object, project: Path) -> bool:
    # Not by `getattr`: a lazy module may answer with an import, and that may fail.
    names = getattr(module, "__dict__", {})
    file = names.get("__file__")
    places = [file] if file else list(names.get("__path__", ()))
    return any(Path(place).is_relative_to(project) for place in places)


def _check(document: Document, path: KeyPath, callback: Callback) -> list[Problem]:
    try:
        found = resolve_class(callback.class_path)
    except SpecError as error:
        return [document.problem((*path, "class"), error.code, error.message)]
    problems = [
        document.problem((*path, "class"), _UNKNOWN, fault) for fault in hook_faults(found)
    ]
    try:
        parameters = inspect.signature(found).parameters
    except (ValueError, TypeError):
        # Classes written in C may have no signature; the constructor then judges by itself.
        return problems
    return problems + _check_arguments(document, path, callback, found, parameters)


def _check_arguments(
    document: Document,
    path: KeyPath,
    callback: Callback,
    found: type[Any],
    parameters: Mapping[str, inspect.Parameter],
) -> list[Problem]:
    given = GIVEN if is_of_family(found) else ()
    named = [
        it for it in parameters.values() if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY)
    ]
    known = [it.name for it in named if it.name not in given]
    takes_any = any(it.kind is it.VAR_KEYWORD for it in parameters.values())
    problems = []
    for key in callback.kwargs:
        if key in given or (key not in known and not takes_any):
            message = f"{found.__name__} takes no such argument{did_you_mean(key, known)}"
            at = (*path, "kwargs", key)
            problems.append(document.problem(at, _UNKNOWN, message, at_key=True))
    missing = [
        it.name
        for it in parameters.values()
        if it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)
        and it.default is it.empty
        and it.name not in callback.kwargs
        and it.name not in given
    ]
    if missing:
        message = f"{found.__name__} needs {', '.join(map(quoted, missing))}"
        problems.append(document.problem((*path, "kwargs"), _WRONG, message))
    if untaken := [] if takes_any else [name for name in given if name not in parameters]:
        message = f"{found.__name__} must take {', '.join(map(quoted, untaken))}, or **kwargs"
        problems.append(document.problem((*path, "class"), _WRONG, message))
    return problems
