"""Which values are secret, and text without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ray_serve_cai.spec.base import KeyPath
from ray_serve_cai.spec.interpolate import variables_of
from ray_serve_cai.spec.trees import get, leaves

if TYPE_CHECKING:
    from ray_serve_cai.spec.document import Document
    from ray_serve_cai.spec.yaml_tree import RawDocument

MASK = "***"

_SECRET_WORDS = frozenset(
    (
        *("key", "keys", "apikey", "apikeys", "token", "secret", "secrets"),
        *("password", "passwords", "passwd", "credential", "credentials"),
    )
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SHORTEST = 4
# A number under a secret name may be a PIN or, as in `token_limit: 8192`, nothing of the kind.
_SHORTEST_NUMBER = 6


def is_secret_name(name: str) -> bool:
    """Whether a key or variable is named like a secret: `api_keys`, not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name)]
    # One of Azure holds an account's key.
    return not _SECRET_WORDS.isdisjoint(words) or words[-2:] == ["connection", "string"]


def masked(document: Document) -> dict[str, Any]:
    """The spec as JSON data for printing, defaults included, with `***` for every secret."""
    tree = document.spec.model_dump(mode="json")
    shown = _mask(tree, (), document.secrets, document.secret_values)
    assert isinstance(shown, dict)
    return shown


def secret_values(document: Document) -> frozenset[str]:
    """The secret texts of a document that `scrub` should take out of logs and exceptions."""
    return document.secret_values


def scrub(text: str, values: Iterable[str]) -> str:
    """`text` with every secret value replaced, also where it stands escaped in JSON or a URL."""
    forms = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def secret_paths(raw: RawDocument) -> frozenset[KeyPath]:
    """Paths of the secret scalars: by key, by the variables they use, or tagged `!secret`."""
    return frozenset(
        path
        for path, value in leaves(raw.tree)
        if path in raw.secrets or _named_secret(path) or _uses_secret(value)
    )


def find_secret_values(
    tree: Any, paths: Iterable[KeyPath], variables: dict[str, str]
) -> frozenset[str]:
    """The texts at the secret paths of a filled tree, and of variables named like a secret."""
    named = (value for name, value in variables.items() if is_secret_name(name))
    texts = (text for path in paths for text in _text(get(tree, path)))
    return frozenset(text for text in (*named, *texts) if len(text) >= _SHORTEST)


def _named_secret(path: KeyPath) -> bool:
    return any(isinstance(part, str) and is_secret_name(part) for part in path)


def _uses_secret(value: object) -> bool:
    return isinstance(value, str) and any(map(is_secret_name, variables_of(value)))


def _text(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
        if len(text) >= _SHORTEST_NUMBER:
            yield text


def _mask(tree: Any, path: KeyPath, paths: frozenset[KeyPath], values: frozenset[str]) -> Any:
    if isinstance(tree, dict):
        return {key: _mask(value, (*path, key), paths, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_mask(value, (*path, index), paths, values) for index, value in enumerate(tree)]
    if tree is None or tree == "" or isinstance(tree, bool):
        return tree
    if path in paths or _named_secret(path):
        return MASK
    return scrub(tree, values) if isinstance(tree, str) else tree


def _forms(value: str) -> tuple[str, ...]:
    escaped = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    return (value, *escaped, quote(value), quote(value, safe=""))
