"""Whatever a file holds, the answer is documents or located problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ray_serve_cai.errors import SpecProblems
from ray_serve_cai.spec import document_from_raw, masked, read_files

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

KEYS = ["kind", "name", "source", "provider", "head", "workers", "ray", "gateway", "engine", "env"]
KEYS += ["replicas", "callbacks", "resources", "class", "type", "min", "max", "api_keys", "args"]
KEYS += ["applications", "llm_configs", "model_loading_config", "model_id", "engine_kwargs"]
KEYS += ["deployment_config", "placement_group_config", "bundles", "runtime_env", "<<"]
SCALARS = [
    "Cluster",
    "Model",
    "demo",
    "1",
    "-1",
    "1.5",
    "true",
    "~",
    "4Gi",
    "5m",
    "${X}",
    "'${X}'",
]
SCALARS += [
    "${NO}",
    "!secret x",
    "!x y",
    "a/b",
    "local",
    "[]",
    "{}",
    "auto",
    "&a b",
    "*a",
    '"\\uD800"',
]

fragments = st.sampled_from([*KEYS, *SCALARS, ": ", ":\n  ", "\n", "- ", ", ", "[", "]", "{", "}"])
yamlish = st.lists(fragments, max_size=30).map("".join)
lines = st.lists(
    st.tuples(
        st.sampled_from(["", "  ", "    ", "- "]), st.sampled_from(KEYS), st.sampled_from(SCALARS)
    ),
    max_size=12,
).map(lambda rows: "\n".join(f"{indent}{key}: {value}" for indent, key, value in rows))


def check(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    documents, problems = read_files([file], env={"X": "3"})
    assert documents or problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message
        str(problem).encode()
    for document in documents:
        masked(document)
        again = document_from_raw(document.raw, document.variables, document.path)
        assert again.spec == document.spec


@SETTINGS
@given(st.text())
@example("%YAML 1." + "1" * 5000 + "\n---\na: 1")
@example('"\\UFFFFFFFF"')
@example("\ufeff")
@example("- " * 500)
@example("{" * 500)
@example("kind: Cluster\nname: &a [*a]\n")
@example("? ? ? a")
@example("a: !<tag:yaml.org,2002:int> x")
@example("!!set {a, b}")
@example("kind: Model\n<<: [{name: x}, {source: a/b}]")
def test_any_text(tmp_path: Path, text: str) -> None:
    check(tmp_path / "f.yaml", text.encode())


@SETTINGS
@given(st.binary())
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    check(tmp_path / "f.yaml", data)


@SETTINGS
@given(st.one_of(yamlish, lines))
@example("kind: Model\nname: m\nsource: a/b\nengine: {args: {a: !secret x}}\n")
def test_any_yaml_like_text(tmp_path: Path, text: str) -> None:
    check(tmp_path / "f.yaml", text.encode())


trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(SCALARS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@SETTINGS
@given(
    st.dictionaries(st.sampled_from(KEYS), trees, max_size=6),
    st.sampled_from(["Cluster", "Model"]),
)
def test_any_stored_tree(tree: dict[str, object], kind: str) -> None:
    with pytest.raises(SpecProblems):
        document_from_raw({**tree, "kind": kind, "name": 3.5, "unknown": tree}, {}, "f.yaml")


@SETTINGS
@given(st.dictionaries(st.sampled_from(KEYS), trees, max_size=6))
def test_any_ray_file(tmp_path: Path, tree: dict[str, object]) -> None:
    import json

    entry = {"model_loading_config": {"model_id": "a/b"}, **tree}
    text = json.dumps({"llm_configs": [entry, tree]}, allow_nan=True)
    check(tmp_path / "f.yaml", text.encode())
