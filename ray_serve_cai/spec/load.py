"""Spec files to checked documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ray_serve_cai.errors import Problem, SpecError, SpecProblems
from ray_serve_cai.spec.base import Fault
from ray_serve_cai.spec.document import KINDS, Document, Draft, check, faults_of, fill, kind_of
from ray_serve_cai.spec.origin import Origin
from ray_serve_cai.spec.overrides import apply_overrides, parse_override
from ray_serve_cai.spec.ray_llm import convert, is_ray_llm
from ray_serve_cai.spec.yaml_load import load_yaml

STDIN = "-"

_UNREADABLE = "CAI-SPEC-001"
_DUPLICATE = "CAI-SPEC-006"
_MAX_BYTES = 1024**2

PathLike = str | os.PathLike[str]


def load_files(
    paths: Sequence[PathLike],
    *,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> list[Document]:
    """The documents of all files, `-` being stdin. Raises `SpecProblems` with every fault."""
    documents, problems = read_files(paths, overrides=overrides, env=env)
    if problems:
        raise SpecProblems(problems)
    return documents


def read_files(
    paths: Sequence[PathLike],
    *,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> tuple[list[Document], list[Problem]]:
    """The documents that are right, and the faults of those that are not.

    An `overrides` entry that is not KEY=VALUE is a `CaiError`.
    """
    env = os.environ if env is None else env
    wanted = [parse_override(text) for text in overrides]
    drafts: list[Draft] = []
    problems: list[Problem] = []
    for path in paths:
        found, faults = _read(os.fspath(path), env)
        drafts += found
        problems += faults
    problems += apply_overrides(wanted, [(it.origin, _keys(it)) for it in drafts])
    documents: list[Document] = []
    for draft in drafts:
        document, faults = check(draft, env)
        problems += faults
        if document and not draft.origin.raw.faulty:
            documents.append(document)
    problems += _duplicates(documents)
    order = [shown(path) for path in paths]
    problems.sort(key=lambda problem: (order.index(problem.path), problem.line, problem.column))
    return documents, problems


def clusters(documents: Iterable[Document]) -> list[Document]:
    """The `kind: Cluster` documents; CAI-SPEC-007 when there is none."""
    return _of_kind(documents, "Cluster")


def models(documents: Iterable[Document]) -> list[Document]:
    """The `kind: Model` documents; CAI-SPEC-007 when there is none."""
    return _of_kind(documents, "Model")


def project_of(path: Path) -> Path:
    """The nearest folder above `path` that holds `callbacks/`, else the working directory."""
    above = (folder for folder in path.absolute().parents if (folder / "callbacks").is_dir())
    return next(above, Path.cwd())


def shown(path: PathLike) -> str:
    """What a file is called in messages and in `Problem.path`."""
    return "<stdin>" if os.fspath(path) == STDIN else os.fspath(path)


def _read(file: str, env: Mapping[str, str]) -> tuple[list[Draft], list[Problem]]:
    shown_as = shown(file)
    try:
        text = _text(_bytes(file))
    except Fault as fault:
        return [], [Problem(shown_as, 1, 1, "", _UNREADABLE, str(fault))]
    raws, problems = load_yaml(text, shown_as)
    if not raws and not problems:
        return [], [Problem(shown_as, 1, 1, "", _UNREADABLE, "the file holds no document")]
    path = Path(file).absolute()
    project = project_of(path)
    drafts: list[Draft] = []
    for raw in raws:
        made, faults = _drafts(Draft(Origin(shown_as, raw), path, project), env)
        drafts += made
        problems += faults
    return drafts, problems


def _drafts(draft: Draft, env: Mapping[str, str]) -> tuple[list[Draft], list[Problem]]:
    if is_ray_llm(draft.origin.raw.tree):
        filled = fill(draft.origin.raw, env)
        if filled.faults:
            return [], faults_of(draft.origin, filled)
        converted = convert(draft.origin, filled.tree)
        made = [Draft(it, draft.path, draft.project, notes) for it, notes in converted.models]
        return made, converted.problems
    model, problems = kind_of(draft.origin)
    return ([draft] if model else []), problems


def _keys(draft: Draft) -> list[str]:
    model = KINDS[draft.origin.raw.tree["kind"]]
    return list(model.model_fields)


def _bytes(path: str) -> bytes:
    if path == STDIN:
        return _bounded(sys.stdin.buffer.read(_MAX_BYTES + 1))
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise Fault("there is no such file") from None
    except IsADirectoryError:
        raise Fault("this is a folder; name the files in it") from None
    except PermissionError:
        raise Fault("this user may not read the file") from None
    except (OSError, ValueError) as error:
        raise Fault(f"the file cannot be read: {getattr(error, 'strerror', error)}") from None
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > _MAX_BYTES:
        raise Fault("the file is larger than 1 MiB; this is not a spec")
    return data


def _text(data: bytes) -> str:
    if b"\0" in data:
        raise Fault("the file is not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Fault(
            f"the file is not UTF-8 text; the first wrong byte is in line {line}"
        ) from None
    if not text.strip():
        raise Fault("the file is empty")
    return text


def _duplicates(documents: Sequence[Document]) -> list[Problem]:
    first: dict[tuple[str, str], Document] = {}
    problems = []
    for document in documents:
        other = first.setdefault((document.kind, document.name), document)
        if other is not document:
            place = other.origin.place(("name",))
            message = (
                f'there is another {document.kind} "{document.name}" '
                f"at {other.origin.shown}:{place.line}:{place.column}"
            )
            problems.append(document.problem(("name",), _DUPLICATE, message))
    return problems


def _of_kind(documents: Iterable[Document], kind: str) -> list[Document]:
    found = [document for document in documents if document.kind == kind]
    if not found:
        raise SpecError("CAI-SPEC-007", f"the files hold no document of kind: {kind}")
    return found
