"""A checked spec together with what it was written as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_serve_cai.errors import Problem, SpecProblems
from ray_serve_cai.spec.base import Fault, KeyPath, format_path, quoted
from ray_serve_cai.spec.cluster import ClusterSpec
from ray_serve_cai.spec.interpolate import interpolate, is_reference
from ray_serve_cai.spec.masking import find_secret_values, scrub, secret_paths
from ray_serve_cai.spec.model import ModelSpec
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.scalars import plain_value
from ray_serve_cai.spec.source import Source, parse_source
from ray_serve_cai.spec.translate import did_you_mean, path_of, translate
from ray_serve_cai.spec.trees import copy, get, leaves, put
from ray_serve_cai.spec.yaml_tree import Place, RawDocument

Spec = ClusterSpec | ModelSpec

KINDS: dict[str, type[Spec]] = {"Cluster": ClusterSpec, "Model": ModelSpec}

# Key of `Document.raw` for what JSON cannot say of a value: unquoted, or tagged !secret.
_MARKS = "$yaml"


@dataclass(frozen=True)
class Document:
    """One spec, checked, with all that is needed to check it again without its file.

    `path` is absolute; for stdin it is `-` in the working directory. `raw` is JSON data with the
    `${…}` text kept and the overrides applied, `variables` the values of those variables that
    the environment held. `project` goes on the import path for dotted names. `secrets` are the
    paths of secret values, `notes` remarks about what was left out on the way.
    """

    spec: Spec = field(repr=False)
    path: Path
    line: int = field(compare=False)
    raw: dict[str, Any] = field(repr=False)
    variables: dict[str, str] = field(repr=False)
    project: Path
    secrets: frozenset[KeyPath]
    secret_values: frozenset[str] = field(repr=False)
    notes: tuple[str, ...] = ()
    origin: Origin = field(repr=False, compare=False, kw_only=True)

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def cluster(self) -> ClusterSpec:
        """The spec of a `kind: Cluster` document; TypeError for any other."""
        if not isinstance(self.spec, ClusterSpec):
            raise TypeError(f"{self.name} is a {self.kind}")
        return self.spec

    @property
    def model(self) -> ModelSpec:
        """The spec of a `kind: Model` document; TypeError for any other."""
        if not isinstance(self.spec, ModelSpec):
            raise TypeError(f"{self.name} is a {self.kind}")
        return self.spec

    @property
    def source(self) -> Source:
        """The model's source taken apart, a relative path resolved against the file's folder."""
        return parse_source(self.model.source, self.path.parent)

    def problem(self, path: KeyPath, code: str, message: str, *, at_key: bool = False) -> Problem:
        """A located problem of this document, without its secrets."""
        message = scrub(message, self.secret_values)
        return self.origin.problem(path, code, message, at_key=at_key)


@dataclass
class Draft:
    """A document on its way to being checked."""

    origin: Origin
    path: Path
    project: Path
    notes: tuple[str, ...] = ()


@dataclass
class Filled:
    """A tree with its variables filled in. `texts` keeps what stood where a scalar is not text."""

    tree: Any
    used: dict[str, str] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)
    faults: dict[KeyPath, Fault] = field(default_factory=dict)


def document_from_raw(
    raw: Mapping[str, Any],
    env: Mapping[str, str],
    path: Path | str,
    *,
    project: Path | None = None,
) -> Document:
    """Rebuild a `Document` from its stored `raw` and `variables`; no file is touched.

    Raises `SpecProblems`. Without `project` the folder of `path` is taken.
    """
    tree = {key: copy(value) for key, value in raw.items() if key != _MARKS}
    marks = raw.get(_MARKS, {})
    plain = {tuple(at): str(get(tree, tuple(at))) for at in marks.get("plain", ())}
    secrets = {tuple(at) for at in marks.get("secret", ())}
    stored = RawDocument(Place(1, 1), tree, plain=plain, secrets=secrets)
    path = Path(path)
    document, problems = check(Draft(Origin(str(path), stored), path, project or path.parent), env)
    if document is None:
        raise SpecProblems(problems)
    return document


def check(draft: Draft, env: Mapping[str, str]) -> tuple[Document | None, list[Problem]]:
    """The document, or what is wrong with it."""
    raw = draft.origin.raw
    model, problems = kind_of(draft.origin)
    if model is None:
        return None, problems
    filled = fill(raw, env)
    secrets = secret_paths(raw)
    values = find_secret_values(filled.tree, secrets, filled.used)
    problems = faults_of(draft.origin, filled)
    spec: Spec | None = None
    try:
        spec = _validate(model, filled, raw)
    except ValidationError as error:
        found = translate(error, model, filled.tree, draft.origin)
        told = {problem.key for problem in problems} | set(map(format_path, raw.faulty))
        problems += [problem for problem in found if problem.key not in told]
    if spec is None or problems:
        return None, [_without(problem, values) for problem in problems]
    return _document(draft, spec, filled.used, secrets, values), []


def kind_of(origin: Origin) -> tuple[type[Spec] | None, list[Problem]]:
    """The model class that `kind` names."""
    tree = origin.raw.tree
    wanted = 'write "kind: Cluster" or "kind: Model"'
    if not isinstance(tree, dict):
        message = f"a document must be a mapping of keys to values; {wanted}"
        return None, [origin.problem((), "CAI-SPEC-004", message)]
    if "kind" not in tree:
        return None, [origin.problem(("kind",), "CAI-SPEC-004", f"the key is missing; {wanted}")]
    kind = tree["kind"]
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind], []
    hint = did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
    shown = f", not {quoted(kind)}" if isinstance(kind, str) else ""
    message = f'must be "Cluster" or "Model"{shown}{hint}'
    return None, [origin.problem(("kind",), "CAI-SPEC-004", message)]


def fill(raw: RawDocument, env: Mapping[str, str]) -> Filled:
    """Fill in the variables; an unquoted scalar that is just one variable gets its YAML type."""
    filled = Filled(copy(raw.tree))
    for path, value in leaves(raw.tree):
        if isinstance(value, str) and "${" in value:
            _fill_one(path, value, raw, env, filled)
        elif path in raw.plain and value is not None and not isinstance(value, str):
            filled.texts[path] = raw.plain[path]
    return filled


def faults_of(origin: Origin, filled: Filled) -> list[Problem]:
    return [origin.problem(at, fault.code, str(fault)) for at, fault in filled.faults.items()]


def _fill_one(
    path: KeyPath, text: str, raw: RawDocument, env: Mapping[str, str], filled: Filled
) -> None:
    try:
        result = interpolate(text, env, filled.used)
    except Fault as fault:
        filled.faults[path] = fault
        return
    value = plain_value(result) if path in raw.plain and is_reference(text) else result
    if not isinstance(value, str):
        filled.texts[path] = result
    put(filled.tree, path, value)


def _validate(model: type[Spec], filled: Filled, raw: RawDocument) -> Spec:
    """Where text is wanted, an unquoted number or boolean counts as the text it was written as."""
    try:
        return model.model_validate(filled.tree)
    except ValidationError as error:
        wanted = [
            path_of(detail, filled.tree)
            for detail in error.errors(include_url=False)
            if detail["type"] == "string_type"
        ]
        texts = {path: filled.texts[path] for path in wanted if path in filled.texts}
        if not texts:
            raise
    for path, text in texts.items():
        put(filled.tree, path, text)
        if raw.plain.pop(path, "") == text:
            put(raw.tree, path, text)
    return model.model_validate(filled.tree)


def _document(
    draft: Draft,
    spec: Spec,
    used: dict[str, str],
    secrets: frozenset[KeyPath],
    values: frozenset[str],
) -> Document:
    return Document(
        spec=spec,
        path=draft.path,
        line=draft.origin.raw.place.line,
        raw=_stored(draft.origin.raw),
        variables=used,
        project=draft.project,
        secrets=secrets,
        secret_values=values,
        notes=draft.notes,
        origin=draft.origin,
    )


def _stored(raw: RawDocument) -> dict[str, Any]:
    plain = sorted(list(path) for path, text in raw.plain.items() if is_reference(text))
    secret = sorted(list(path) for path in raw.secrets)
    marks = {name: paths for name, paths in (("plain", plain), ("secret", secret)) if paths}
    tree: dict[str, Any] = copy(raw.tree)
    return {**tree, _MARKS: marks} if marks else tree


def _without(problem: Problem, values: frozenset[str]) -> Problem:
    message = scrub(problem.message, values)
    return Problem(problem.path, problem.line, problem.column, problem.key, problem.code, message)
