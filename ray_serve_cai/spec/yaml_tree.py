"""Composed YAML nodes to plain data that remembers where each key and value stood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ray_serve_cai.errors import Problem
from ray_serve_cai.spec.base import Fault, KeyPath, format_path, quoted
from ray_serve_cai.spec.scalars import plain_value

SYNTAX = "CAI-SPEC-002"
PLAIN = "plain"

_MAX_VALUES = 50_000
_SECRET = "!secret"
_CORE = "tag:yaml.org,2002:"
_TEXT = _CORE + "str"
_TAGGED: dict[str, tuple[type, ...]] = {
    _CORE + "int": (int,),
    _CORE + "float": (int, float),
    _CORE + "bool": (bool,),
    _CORE + "null": (type(None),),
}


class Place(NamedTuple):
    """Line and column, counted from 1."""

    line: int
    column: int


@dataclass
class RawDocument:
    """One YAML document as plain data, with `${…}` as written.

    `plain` holds the original text of every unquoted scalar, `secrets` the paths tagged
    `!secret`, `faulty` the paths whose values could not be read.
    """

    place: Place
    tree: Any = None
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    plain: dict[KeyPath, str] = field(default_factory=dict)
    secrets: set[KeyPath] = field(default_factory=set)
    faulty: set[KeyPath] = field(default_factory=set)


class Builder:
    """Builds one document's tree in `raw`, and collects problems instead of raising them.

    `PLAIN` is the tag that it expects on unquoted scalars without a tag of their own.
    """

    def __init__(self, path: str, raw: RawDocument) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._raw = raw
        self._left = _MAX_VALUES
        self._open: set[int] = set()

    def build(self, node: Node, path: KeyPath) -> Any:
        self._raw.values[path] = place_of(node)
        try:
            return self._value(node, path)
        except Fault as fault:
            self._note(node, path, fault)
            return None

    def _value(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self._open:
            raise Fault("an anchor contains itself")
        self._left -= 1
        if self._left == -1:
            raise Fault(f"the document holds more than {_MAX_VALUES} values")
        if self._left < 0:
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            return self._collection(node, path)
        finally:
            self._open.discard(id(node))

    def _collection(self, node: Node, path: KeyPath) -> Any:
        if isinstance(node, MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == _CORE + "seq":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag == _SECRET:
            raise Fault("!secret marks a single value, not a list or mapping")
        raise _unknown_tag(node)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == PLAIN and key_node.value == "<<":
                merged.append(value_node)
            else:
                self._entry(key_node, value_node, path, tree)
        for source in merged:
            self._merge(source, path, tree)
        return tree

    def _entry(
        self, key_node: Node, value_node: Node, path: KeyPath, tree: dict[str, Any]
    ) -> None:
        try:
            key = _key(key_node)
        except Fault as fault:
            self._note(key_node, path, fault)
            return
        at = (*path, key)
        if key in tree:
            first = self._raw.keys[at]
            message = f"the key is given twice; first at {first.line}:{first.column}"
            self._note(key_node, at, Fault(message))
            return
        self._raw.keys[at] = place_of(key_node)
        tree[key] = self.build(value_node, at)

    def _merge(self, source: Node, path: KeyPath, tree: dict[str, Any]) -> None:
        """Keys given beside `<<` win, and so does the earlier of several merged mappings."""
        parts = source.value if isinstance(source, SequenceNode) else [source]
        for part in parts:
            if not isinstance(part, MappingNode):
                self._note(part, path, Fault("<< merges mappings only"))
                continue
            side = Builder(self._path, RawDocument(place_of(part)))
            side._left, side._open = self._left, self._open
            found = side.build(part, path)
            self._left = side._left
            self.problems += side.problems
            self._raw.faulty |= side._raw.faulty
            if isinstance(found, dict):
                self._take(found, side._raw, path, tree)

    def _take(
        self, found: dict[str, Any], side: RawDocument, path: KeyPath, tree: dict[str, Any]
    ) -> None:
        fresh = {key for key in found if key not in tree}
        tree.update((key, found[key]) for key in found if key in fresh)

        def taken(at: KeyPath) -> bool:
            return len(at) > len(path) and at[len(path)] in fresh

        self._raw.keys |= {at: place for at, place in side.keys.items() if taken(at)}
        self._raw.values |= {at: place for at, place in side.values.items() if taken(at)}
        self._raw.plain |= {at: text for at, text in side.plain.items() if taken(at)}
        self._raw.secrets |= {at for at in side.secrets if taken(at)}

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text = _text(node)
        if node.tag == PLAIN:
            self._raw.plain[path] = text
            return plain_value(text)
        if node.tag == _SECRET:
            self._raw.secrets.add(path)
        elif node.tag != _TEXT:
            return _tagged(node, text)
        return text

    def _note(self, node: Node, path: KeyPath, fault: Fault) -> None:
        self._raw.faulty.add(path)
        place = place_of(node)
        key = format_path(path)
        self.problems.append(
            Problem(self._path, place.line, place.column, key, SYNTAX, str(fault))
        )


def place_of(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _key(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        raise Fault("a list or mapping cannot be a key")
    if node.tag not in (PLAIN, _TEXT):
        raise Fault(f"a key cannot have the tag {quoted(node.tag.replace(_CORE, '!!'))}")
    text = _text(node)
    if node.tag == PLAIN and not isinstance(plain_value(text), str):
        said = f"the key {text}" if text else "an empty key"
        raise Fault(f"{said} is not text; put it in quotes")
    return text


def _text(node: ScalarNode) -> str:
    text: str = node.value
    # A lone surrogate, from an escape, can be neither printed nor stored.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise Fault("an escape is not a character")
    return text


def _tagged(node: ScalarNode, text: str) -> Any:
    if node.tag not in _TAGGED:
        raise _unknown_tag(node)
    value = plain_value(text)
    kinds = _TAGGED[node.tag]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise Fault(f"{quoted(text)} does not fit the tag {node.tag.replace(_CORE, '!!')}")
    return value


def _unknown_tag(node: Node) -> Fault:
    tag = node.tag.replace(_CORE, "!!")
    return Fault(f"unknown tag {quoted(tag)}; there is only !secret")
