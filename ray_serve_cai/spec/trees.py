"""Plain trees of dicts, lists and scalars: walking, reading and writing by path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_serve_cai.spec.base import KeyPath


def leaves(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every scalar with its path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from leaves(value, (*path, index))
    else:
        yield path, tree


def get(tree: Any, path: KeyPath) -> Any:
    """What lies at `path`, or None."""
    for part in path:
        if not has(tree, part):
            return None
        tree = tree[part]
    return tree


def has(tree: Any, part: str | int) -> bool:
    if isinstance(tree, dict):
        return part in tree
    return isinstance(tree, list) and isinstance(part, int) and 0 <= part < len(tree)


def put(tree: Any, path: KeyPath, value: Any) -> None:
    """Write at a path whose parent is there."""
    for part in path[:-1]:
        tree = tree[part]
    tree[path[-1]] = value


def copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: copy(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copy(value) for value in tree]
    return tree
