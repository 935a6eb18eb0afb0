"""`--set head.cpu=4`: one value of a document, replaced before it is checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ray_serve_cai.errors import CaiError, Problem
from ray_serve_cai.spec.base import Fault, KeyPath, quoted
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.translate import did_you_mean
from ray_serve_cai.spec.trees import copy, get, has
from ray_serve_cai.spec.yaml_load import load_yaml
from ray_serve_cai.spec.yaml_tree import Place, RawDocument

_KEY = re.compile(r"[^.\[\]\s]+(\[[^\[\]]+\])*(\.[^.\[\]\s]+(\[[^\[\]]+\])*)*")
_PART = re.compile(r"\[([^\[\]]+)\]|([^.\[\]]+)")
_START = Place(1, 1)


@dataclass(frozen=True)
class Override:
    """One `--set`. A part in brackets is an index or the `name` of a list's item."""

    option: str
    parts: tuple[tuple[str, bool], ...]
    value: RawDocument


def parse_override(text: str) -> Override:
    """Read `KEY=VALUE`; the value is YAML. Raises CAI-CLI-001."""
    option, equals, value = text.partition("=")
    option = option.strip()
    if not equals or not _KEY.fullmatch(option):
        shown = quoted(option) if equals else quoted(text)
        raise CaiError("CAI-CLI-001", f"--set takes KEY=VALUE such as head.cpu=4, not {shown}")
    documents, problems = load_yaml(value, "--set")
    if problems or len(documents) > 1:
        said = problems[0].message if problems else "there is more than one document"
        raise CaiError("CAI-CLI-001", f"--set {option}: the value is not YAML: {said}")
    parts = tuple((match[1] or match[2], bool(match[1])) for match in _PART.finditer(option))
    empty = RawDocument(place=_START)
    return Override(option, parts, documents[0] if documents else empty)


def apply_overrides(
    overrides: Sequence[Override], documents: Sequence[tuple[Origin, Iterable[str]]]
) -> list[Problem]:
    """Write each override into every document that knows its first key; say which fit none."""
    problems: list[Problem] = []
    for override in overrides:
        first = override.parts[0][0]
        takers = [origin for origin, known in documents if first in known]
        if not takers and documents:
            known = sorted({key for _, keys in documents for key in keys})
            message = f"unknown key in --set {override.option}{did_you_mean(first, known)}"
            problems.append(documents[0][0].problem((first,), "CAI-SPEC-003", message))
        for origin in takers:
            problems += _apply(override, origin)
    return problems


def _apply(override: Override, origin: Origin) -> list[Problem]:
    raw = origin.raw
    try:
        path = _locate(raw.tree, override)
    except Fault as fault:
        return [origin.problem(fault.at, fault.code, f"{fault} (from --set {override.option})")]
    _forget(raw, path)
    _write(raw.tree, path, copy(override.value.tree))
    raw.plain |= {(*path, *at): text for at, text in override.value.plain.items()}
    raw.secrets |= {(*path, *at) for at in override.value.secrets}
    origin.options[path] = override.option
    return []


def _locate(tree: Any, override: Override) -> KeyPath:
    path: KeyPath = ()
    for part, bracketed in override.parts:
        here = get(tree, path)
        if bracketed:
            path = (*path, _index(here, part, path))
        elif here is None or isinstance(here, dict):
            path = (*path, part)
        else:
            raise Fault(f"is not a mapping, so it has no {quoted(part)}", at=path)
    return path


def _index(items: Any, part: str, path: KeyPath) -> int:
    if not isinstance(items, list):
        raise Fault("is not a list", at=path)
    if re.fullmatch("[0-9]{1,9}", part):
        if not has(items, int(part)):
            raise Fault(f"has {len(items)} entries, counted from 0", at=path)
        return int(part)
    names = [str(get(item, ("name",)) or "") for item in items]
    if part not in names:
        raise Fault(f"has no entry {quoted(part)}{did_you_mean(part, names)}", at=path)
    return names.index(part)


def _forget(raw: RawDocument, path: KeyPath) -> None:
    def below(at: KeyPath) -> bool:
        return at[: len(path)] == path

    raw.plain = {at: text for at, text in raw.plain.items() if not below(at)}
    raw.secrets = {at for at in raw.secrets if not below(at)}
    raw.values = {at: place for at, place in raw.values.items() if at == path or not below(at)}
    raw.keys = {at: place for at, place in raw.keys.items() if at == path or not below(at)}


def _write(tree: Any, path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        if get(tree, (part,)) is None:
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value
