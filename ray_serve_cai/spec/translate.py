"""pydantic's errors in our own words, at the place in the file where the fault is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ray_serve_cai.errors import Problem
from ray_serve_cai.spec.base import Fault, KeyPath, SpecModel, quoted
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.trees import get, has

_UNKNOWN = "CAI-SPEC-003"
_WRONG = "CAI-SPEC-004"

# What was wanted, by pydantic's error type. Types with a bound name it in the error's context.
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "string_too_short": "text that is not empty",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "cpu"?`, or nothing when no known word is near."""
    near = nearest(word, known)
    return f"; did you mean {quoted(near)}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1)
    return by_lower[matches[0]] if matches else None


def one_of(words: Sequence[str]) -> str:
    """`"a", "b" or "c"`."""
    shown = [quoted(word) for word in words]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def translate(
    error: ValidationError, model: type[SpecModel], tree: Any, origin: Origin
) -> list[Problem]:
    """One `Problem` for each fault of `tree`, in the order of the file."""
    details = error.errors(include_url=False)
    suggested = {
        (*path[:-1], near)
        for detail in details
        if detail["type"] == "extra_forbidden"
        and (path := path_of(detail, tree))
        and (near := nearest(str(path[-1]), keys_at(model, tree, path[:-1])))
    }
    problems = [
        _problem(detail, model, tree, origin)
        for detail in details
        if not (detail["type"] == "missing" and path_of(detail, tree) in suggested)
    ]
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


def path_of(detail: ErrorDetails, tree: Any) -> KeyPath:
    """The path in the document; pydantic's own also names the members of unions that it tried."""
    path: KeyPath = ()
    for part in detail["loc"]:
        if has(tree, part):
            tree = tree[part]
            path = (*path, part)
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else path


def keys_at(model: type[SpecModel], tree: Any, path: KeyPath) -> list[str]:
    """The keys that the spec knows for the mapping at `path`."""
    for part in path:
        tree = get(tree, (part,))
        if isinstance(part, str):
            field = _fields(model).get(part)
            models = _models(field.annotation) if field else []
            if not models:
                return []
            model = _choose(models, tree)
    return list(_fields(model))


def _fields(model: type[SpecModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[SpecModel]]:
    if isinstance(annotation, type) and issubclass(annotation, SpecModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _choose(models: list[type[SpecModel]], tree: Any) -> type[SpecModel]:
    wanted = get(tree, ("type",))
    fitting = (
        model
        for model in models
        if "type" in model.model_fields and model.model_fields["type"].default == wanted
    )
    return next(fitting, models[0])


def _problem(detail: ErrorDetails, model: type[SpecModel], tree: Any, origin: Origin) -> Problem:
    path = path_of(detail, tree)
    kind = detail["type"]
    if kind == "extra_forbidden":
        message = _unknown_key(str(path[-1]), keys_at(model, tree, path[:-1]))
        return origin.problem(path, _UNKNOWN, message, at_key=True)
    if kind == "missing":
        return origin.problem(path, _WRONG, "the key is missing")
    if kind == "value_error" and isinstance(fault := detail["ctx"]["error"], Fault):
        at_key = detail["loc"][-1] == "[key]"
        return origin.problem((*path, *fault.at), fault.code, str(fault), at_key=at_key)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_type(detail, path, tree, origin)
    return origin.problem(path, _WRONG, _must_be(detail, get(tree, path)))


def _unknown_key(key: str, known: list[str]) -> str:
    hint = did_you_mean(key, known)
    if not hint and known:
        hint = f"; known are {', '.join(known)}"
    return "unknown key" + hint


def _wrong_type(detail: ErrorDetails, path: KeyPath, tree: Any, origin: Origin) -> Problem:
    value = get(tree, path)
    if not isinstance(value, dict):
        return origin.problem(path, _WRONG, f"must be a mapping, not {_shown(value)}")
    if "type" not in value:
        return origin.problem((*path, "type"), _WRONG, "the key is missing")
    known = [
        word.strip("'") for word in detail.get("ctx", {}).get("expected_tags", "").split(", ")
    ]
    return origin.problem((*path, "type"), _WRONG, _not_one_of(value["type"], known))


def _must_be(detail: ErrorDetails, value: Any) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        words = str(context["expected"]).replace(" or ", ", ").split(", ")
        return _not_one_of(value, [word.strip("'") for word in words])
    wanted = _WANTED.get(detail["type"])
    if wanted is None:
        return f"{_shown(value)} is not allowed here"
    numbers = {name: f"{bound:g}" for name, bound in context.items() if name in ("ge", "gt", "le")}
    return f"must be {wanted.format(**numbers)}, not {_shown(value)}"


def _not_one_of(value: Any, known: list[str]) -> str:
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    return f"must be {one_of(known)}, not {_shown(value)}{hint}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"{value:.10g}"
