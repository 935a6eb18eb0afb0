from __future__ import annotations

import pytest

from ray_serve_cai.spec.scalars import plain_value
from ray_serve_cai.spec.yaml_load import load_yaml


def only(text: str) -> object:
    documents, problems = load_yaml(text, "f.yaml")
    assert problems == []
    return documents[0].tree


def fault(text: str) -> str:
    _, problems = load_yaml(text, "f.yaml")
    return str(problems[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8000", 8000),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = plain_value(text)
    assert (found, type(found)) == (value, type(value))


def test_quoted_scalars_are_text() -> None:
    assert only("a: '1'\nb: \"true\"\nc: !!str 3\nd: |\n  4\n") == {
        "a": "1",
        "b": "true",
        "c": "3",
        "d": "4\n",
    }


def test_places_of_keys_and_values() -> None:
    documents, _ = load_yaml("a:\n  b: [1, 22]\n---\nc: 3\n", "f.yaml")
    assert documents[0].keys["a", "b"] == (2, 3)
    assert documents[0].values["a", "b", 1] == (2, 10)
    assert documents[1].values["c",] == (4, 4)
    assert documents[1].place == (4, 1)


def test_empty_documents_are_passed_over() -> None:
    documents, problems = load_yaml("---\n---\na: 1\n---\n", "f.yaml")
    assert [document.tree for document in documents] == [{"a": 1}]
    assert problems == []


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: {z: 2}}\nmore: {<<: *b, x: 3}\nlist: {<<: [{x: 5}, *b]}\n"
    assert only(text) == {
        "base": {"x": 1, "y": {"z": 2}},
        "more": {"x": 3, "y": {"z": 2}},
        "list": {"x": 5, "y": {"z": 2}},
    }


def test_merged_values_keep_the_place_and_marks_of_the_anchor() -> None:
    documents, _ = load_yaml("a: &a\n  k: !secret x\n  p: ${P}\nb:\n  <<: *a\n", "f.yaml")
    document = documents[0]
    assert document.values["b", "k"] == (2, 6)
    assert ("b", "k") in document.secrets
    assert document.plain["b", "p"] == "${P}"


def test_aliases_are_copies() -> None:
    tree = only("a: &x [1]\nb: *x\n")
    assert isinstance(tree, dict)
    assert tree["a"] is not tree["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: the key is given twice; first at 1:1"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: a tab is used for indentation; use spaces"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2:2: a list or mapping in brackets is not closed"),
        ("a: 'x\n", "f.yaml:2:1: a quote is not closed"),
        ("a: b: c\n", 'f.yaml:1:5: a ":" where no key can be; quote the value, or indent it'),
        ("a: 1\n b: 2\n", 'f.yaml:2:3: a ":" where no key can be; quote the value, or indent it'),
        ("a: *x\n", "f.yaml:1:4: an alias (*name) without its anchor (&name)"),
        ("- 1\na: 2\n", "f.yaml:2:1: the indentation does not fit the lines above"),
        ("a: @x\n", "f.yaml:1:4: a character that needs quotes here"),
        (
            'a: "\\q"\n',
            "f.yaml:1:6: an unknown escape in double quotes; use \\\\ or single quotes",
        ),
        (
            "a: {p: ${X}}\n",
            "f.yaml:1:9: a list or mapping in brackets is not closed; "
            "inside { } and [ ] a ${…} needs quotes",
        ),
        ("a: &x [*x]\n", "f.yaml:1:4: a[0]: an anchor contains itself"),
        ("a: !foo 1\n", 'f.yaml:1:4: a: unknown tag "!foo"; there is only !secret'),
        ("a: !!python/name:os.system x", 'f.yaml:1:4: a: unknown tag "!!python/name:os.system"'),
        ("a: !secret {b: 1}\n", "f.yaml:1:4: a: !secret marks a single value"),
        ("a: !!int x\n", 'f.yaml:1:4: a: "x" does not fit the tag !!int'),
        ("1: x\n", "f.yaml:1:1: the key 1 is not text; put it in quotes"),
        ("? [a]\n: x\n", "f.yaml:1:3: a list or mapping cannot be a key"),
        ("?\n: x\n", "f.yaml:1:2: an empty key is not text; put it in quotes"),
        ("a:\n  <<: 3\n", "f.yaml:2:7: a: << merges mappings only"),
        ('a: "\\ud800"\n', "f.yaml:1:4: a: an escape is not a character"),
        ('a: "\\UFFFFFFFF"\n', "f.yaml:1:1: an escape or a directive is out of range"),
        ("a: x\x07\n", "f.yaml:1:5: the text holds a control character"),
        ("[" * 1000, "f.yaml:1:61: nested more than 60 levels deep"),
    ],
)
def test_what_is_not_yaml(text: str, message: str) -> None:
    assert fault(text).startswith(message)


def test_an_alias_bomb_is_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    _, problems = load_yaml("\n".join(lines), "f.yaml")
    assert [problem.message for problem in problems] == [
        "the document holds more than 50000 values"
    ]


def test_all_faults_of_the_tree_are_found() -> None:
    _, problems = load_yaml("a: 1\na: 2\nb: !x 1\n---\nc: 1\nc: 2\n", "f.yaml")
    assert [(problem.line, problem.key) for problem in problems] == [(2, "a"), (3, "b"), (6, "c")]
