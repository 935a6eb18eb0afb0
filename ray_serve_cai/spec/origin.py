"""Where a document came from, so that a fault can be shown at its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_serve_cai.errors import Problem
from ray_serve_cai.spec.base import KeyPath, format_path
from ray_serve_cai.spec.yaml_tree import Place, RawDocument


@dataclass
class Origin:
    """`shown` is the file as the user named it; `options` the `--set` keys that wrote a path;
    `written` the paths in the file of what was converted from another form."""

    shown: str
    raw: RawDocument
    options: dict[KeyPath, str] = field(default_factory=dict)
    written: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def problem(self, path: KeyPath, code: str, message: str, *, at_key: bool = False) -> Problem:
        """A problem at the value of `path`, or at its key, or at what is nearest above it."""
        place = self.place(path, at_key=at_key)
        if option := self._option(path):
            message += f" (from --set {option})"
        key = format_path(self._as_written(path))
        return Problem(self.shown, place.line, place.column, key, code, message)

    def place(self, path: KeyPath, *, at_key: bool = False) -> Place:
        if at_key and path in self.raw.keys:
            return self.raw.keys[path]
        while path not in self.raw.values and path:
            path = path[:-1]
        return self.raw.values.get(path, self.raw.place)

    def _option(self, path: KeyPath) -> str | None:
        for end in range(len(path), 0, -1):
            if path[:end] in self.options:
                return self.options[path[:end]]
        return None

    def _as_written(self, path: KeyPath) -> KeyPath:
        for end in range(len(path), -1, -1):
            if path[:end] in self.written:
                return self.written[path[:end]] + path[end:]
        return path
