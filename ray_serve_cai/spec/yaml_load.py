"""YAML text to documents, and PyYAML's complaints in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import Node, ScalarNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from ray_serve_cai.errors import Problem
from ray_serve_cai.spec.yaml_tree import PLAIN, SYNTAX, Builder, Place, RawDocument, place_of

_MAX_DEPTH = 60
_VARIABLE = re.compile(r"\$\{")


def load_yaml(text: str, path: str) -> tuple[list[RawDocument], list[Problem]]:
    """The non-empty documents of `text`, and what is wrong with it. Never raises."""
    documents: list[RawDocument] = []
    problems: list[Problem] = []
    try:
        for node in _compose(text):
            raw = RawDocument(place_of(node))
            builder = Builder(path, raw)
            raw.tree = builder.build(node, ())
            problems += builder.problems
            if raw.tree is not None:
                documents.append(raw)
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, path))
    except (ValueError, OverflowError):
        # PyYAML's scanner passes on what chr() and int() say of absurd escapes and versions.
        problems.append(
            Problem(path, 1, 1, "", SYNTAX, "an escape or a directive is out of range")
        )
    return documents, problems


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return PLAIN
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str) -> Iterator[Node]:
    loader = _Loader(text)
    while loader.check_node():
        node = loader.get_node()
        if node is not None:
            yield node


def _syntax_problem(error: yaml.YAMLError, text: str, path: str) -> Problem:
    if isinstance(error, ReaderError):
        place = _place_of_offset(text, error.position)
        message = "the text holds a control character; this does not look like YAML"
        return Problem(path, place.line, place.column, "", SYNTAX, message)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    said = getattr(error, "problem", None) or "the text is not YAML"
    return Problem(path, line, column, "", SYNTAX, _sentence(said, text, line))


def _sentence(said: str, text: str, line: int) -> str:
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    for pattern, sentence in _SENTENCES:
        if re.search(pattern, said):
            said = sentence
            break
    if _VARIABLE.search(here) and ("{" in _VARIABLE.sub("", here) or "[" in here):
        return said + "; inside { } and [ ] a ${…} needs quotes"
    return said


def _place_of_offset(text: str, offset: int) -> Place:
    before = text[:offset]
    return Place(before.count("\n") + 1, offset - before.rfind("\n"))


# What PyYAML says, and what we say instead.
_SENTENCES = (
    (r"'\\t' that cannot start", "a tab is used for indentation; use spaces"),
    (r"character .* that cannot start", "a character that needs quotes here"),
    (
        r"mapping values are not allowed",
        'a ":" where no key can be; quote the value, or indent it',
    ),
    (r"expected <block end>, but found", "the indentation does not fit the lines above"),
    (r"could not find expected ':'", 'a key without ":" after it'),
    (r"expected ',' or '[\]}]'", "a list or mapping in brackets is not closed"),
    (r"found unexpected end of stream", "a quote is not closed"),
    (r"found undefined alias", "an alias (*name) without its anchor (&name)"),
    (r"expected the node content", "a value is missing, or a bracket is out of place"),
    (r"expected '<document start>'", "text after the end of the document; use --- between two"),
    (r"found duplicate anchor", "an anchor is defined twice"),
    (r"unknown escape character", "an unknown escape in double quotes; use \\\\ or single quotes"),
    (r"nested too deeply", f"nested more than {_MAX_DEPTH} levels deep"),
)
