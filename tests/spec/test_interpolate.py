from __future__ import annotations

import pytest

from ray_serve_cai.spec.base import Fault
from ray_serve_cai.spec.interpolate import interpolate, is_reference, variables_of

ENV = {"A": "1", "EMPTY": "", "B_2": "two"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain $A", "plain $A"),
        ("${A}", "1"),
        ("x${A}y${B_2}z", "x1ytwoz"),
        ("${EMPTY}", ""),
        ("${NO:-d e}", "d e"),
        ("${NO:-}", ""),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "1"),
        ("${A:?needed}", "1"),
        ("${NO:-a:-b:?c}", "a:-b:?c"),
        ("$${A}", "${A}"),
        ("$${A} ${A}", "${A} 1"),
        ("$$A", "$$A"),
    ],
)
def test_values(text: str, result: str) -> None:
    assert interpolate(text, ENV, {}) == result


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("${NO}", "CAI-SPEC-005", "the variable NO is not set"),
        ("${NO:?for the hub}", "CAI-SPEC-005", "the variable NO is not set: for the hub"),
        ("${EMPTY:?}", "CAI-SPEC-005", "the variable EMPTY is not set: it is needed"),
        ("${A", "CAI-SPEC-004", "${ is not closed; write $${ for the characters themselves"),
        (
            "${}",
            "CAI-SPEC-004",
            '"${}" names no variable; write $${ for the characters themselves',
        ),
        ("${1A}", "CAI-SPEC-004", '"${1A}" names no variable; write $${ for the characters'),
        ("${A:+x}", "CAI-SPEC-004", '"${A:+x}" names no variable'),
        ("${A:-${B}}", "CAI-SPEC-004", "a default or message cannot hold another ${…}"),
    ],
)
def test_faults(text: str, code: str, message: str) -> None:
    with pytest.raises(Fault) as caught:
        interpolate(text, ENV, {})
    assert caught.value.code == code
    assert str(caught.value).startswith(message)


def test_the_variables_that_were_set_are_noted() -> None:
    used: dict[str, str] = {}
    interpolate("${A} ${EMPTY:-x} ${NO:-y}", ENV, used)
    assert used == {"A": "1", "EMPTY": ""}


def test_names_in_a_text() -> None:
    assert variables_of("${A:-x} $${B} ${C}") == {"A", "C"}
    assert is_reference("${A:-x}")
    assert not is_reference("${A}b")
    assert not is_reference("$${A}")
