"""`${VAR}`, `${VAR:-default}`, `${VAR:?message}` in text; `$${` is a literal `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_serve_cai.spec.base import VARIABLE_PATTERN, Fault, quoted

_TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = VARIABLE_PATTERN.strip("^$")
_REFERENCE = re.compile(rf"({_NAME})(?:(:-|:\?)(.*))?", re.DOTALL)
_UNSET = "CAI-SPEC-005"


def interpolate(text: str, env: Mapping[str, str], used: dict[str, str]) -> str:
    """`text` with its variables filled in; those that `env` holds are noted in `used`.

    Raises `Fault`, with CAI-SPEC-005 for a variable that is not set.
    """
    return _TOKEN.sub(lambda match: _replacement(match, env, used), text)


def variables_of(text: str) -> frozenset[str]:
    """The names of the variables that `text` refers to."""
    found = (_REFERENCE.fullmatch(match[1]) for match in _TOKEN.finditer(text) if match[1])
    return frozenset(reference[1] for reference in found if reference)


def is_reference(text: str) -> bool:
    """Whether `text` is one variable and nothing else."""
    match = _TOKEN.fullmatch(text)
    return match is not None and match[1] is not None


def _replacement(match: re.Match[str], env: Mapping[str, str], used: dict[str, str]) -> str:
    if match[1] is None:
        return "${"
    if not match[2]:
        raise Fault("${ is not closed; write $${ for the characters themselves")
    reference = _REFERENCE.fullmatch(match[1])
    if reference is None:
        raise Fault(
            f"{quoted(match[0])} names no variable; write $${{ for the characters themselves"
        )
    if "${" in match[1]:
        raise Fault("a default or message cannot hold another ${…}")
    name, mark, rest = reference.groups()
    if name in env:
        used[name] = env[name]
    value = env.get(name)
    return _value(name, value, mark, rest)


def _value(name: str, value: str | None, mark: str | None, rest: str | None) -> str:
    """As in a shell: `:-` and `:?` take an empty variable for one that is not set."""
    if mark == ":-":
        return value or rest or ""
    if mark == ":?" and not value:
        raise Fault(f"the variable {name} is not set: {rest or 'it is needed'}", code=_UNSET)
    if value is None:
        raise Fault(f"the variable {name} is not set", code=_UNSET)
    return value
