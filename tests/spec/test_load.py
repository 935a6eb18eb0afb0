from __future__ import annotations

import io
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_serve_cai.errors import CaiError, SpecProblems
from ray_serve_cai.spec import (
    Source,
    clusters,
    document_from_raw,
    load_files,
    models,
    project_of,
    read_files,
)

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "f.yaml") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
        return name

    return write_file


def errors(*paths: str, **options: object) -> list[str]:
    with pytest.raises(SpecProblems) as caught:
        load_files(paths, **({"env": {}} | options))  # type: ignore[arg-type]
    return str(caught.value).splitlines()


CLUSTER = "kind: Cluster\nname: demo\n"
MODEL = "kind: Model\nname: m\nsource: org/name\n"


def test_the_whole_message_of_a_bad_cluster(write: Write) -> None:
    write(
        """\
kind: Cluster
name: Demo
provider: {type: locl}
head: {cpu: two, memry: 4Gi}
workers:
  - {name: gpu, cpus: 16}
  - {nmae: x}
gateway:
  port: 0
  metrics: 3
"""
    )
    assert errors("f.yaml") == [
        "f.yaml:2:7: name: must be lower-case letters, digits and hyphens between them "
        '(40 at most), not "Demo"',
        'f.yaml:3:18: provider.type: must be "local", "existing", "cai-workers" or '
        '"cai-applications", not "locl"; did you mean "local"?',
        'f.yaml:4:13: head.cpu: must be a number, not "two"',
        'f.yaml:4:18: head.memry: unknown key; did you mean "memory"?',
        'f.yaml:6:17: workers[0].cpus: unknown key; did you mean "cpu"?',
        'f.yaml:7:6: workers[1].nmae: unknown key; did you mean "name"?',
        "f.yaml:9:9: gateway.port: must be a port from 1 to 65535, or auto",
        "f.yaml:10:12: gateway.metrics: must be a mapping, not 3",
    ]


def test_the_whole_message_of_a_bad_model(write: Write) -> None:
    write(
        """\
kind: Model
name: a b
engine: {transport: rest, args: [1]}
resources: {gpu: 1.5, cpu: -1, memory: lots}
replicas: {min: 3, max: 2}
env: {"A B": x, C: {}}
callbacks:
  - {clas: a.B, on_error: ignore}
  - {class: nodots, timeout: soon}
"""
    )
    assert errors("f.yaml") == [
        "f.yaml:1:1: source: the key is missing",
        'f.yaml:2:7: name: must be letters, digits and . _ / - (96 at most), not "a b"',
        'f.yaml:3:21: engine.transport: must be "auto", "grpc" or "http", not "rest"',
        "f.yaml:3:33: engine.args: must be a mapping, not a list",
        "f.yaml:4:18: resources.gpu: must be a whole number, not 1.5",
        "f.yaml:4:28: resources.cpu: must be 0 or more, not -1",
        "f.yaml:4:40: resources.memory: must be a size such as 4Gi, 512Mi or 64M",
        "f.yaml:5:25: replicas.max: must not be less than min, 3",
        'f.yaml:6:7: env.A B: must be the name of an environment variable, not "A B"',
        "f.yaml:6:20: env.C: must be text, not a mapping",
        'f.yaml:8:6: callbacks[0].clas: unknown key; did you mean "class"?',
        'f.yaml:8:27: callbacks[0].on_error: must be "fail" or "log", not "ignore"',
        "f.yaml:9:13: callbacks[1].class: must be a dotted path such as "
        'callbacks.metrics.Startup, not "nodots"',
        "f.yaml:9:30: callbacks[1].timeout: must be a duration such as 30s, 5m or 1h",
    ]


def test_the_whole_message_of_several_files(write: Write) -> None:
    write("kind: Cluster\nname: a\nworkers: 3\n", "a.yaml")
    write("kind: Modl\n---\njust text\n---\nname: x\n---\nkind: 3\n", "b.yaml")
    assert errors("a.yaml", "b.yaml", "c.yaml") == [
        "a.yaml:3:10: workers: must be a list, not 3",
        'b.yaml:1:7: kind: must be "Cluster" or "Model", not "Modl"; did you mean "Model"?',
        "b.yaml:3:1: a document must be a mapping of keys to values; "
        'write "kind: Cluster" or "kind: Model"',
        'b.yaml:5:1: kind: the key is missing; write "kind: Cluster" or "kind: Model"',
        'b.yaml:7:7: kind: must be "Cluster" or "Model"',
        "c.yaml:1:1: there is no such file",
    ]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("workers: [{name: a}, {name: a}]", 'there is another worker group "a"'),
        ("workers: [{name: head}]", 'a worker group cannot be called "head"'),
        ("workers: [{name: a, count: -1}]", "must be 0 or more, not -1"),
        ("workers: [{name: a, gpu: true}]", "must be a whole number, not true"),
        ("workers: [a]", 'must be a mapping, not "a"'),
        ("provider: local", 'must be a mapping, not "local"'),
        ("provider: {}", "the key is missing"),
        ("provider: {type: existing, adress: auto}", 'unknown key; did you mean "address"?'),
        ("provider: {type: local, address: auto}", "unknown key; known are type"),
        ("provider: {type: existing, address: 'ray://h:1'}", "must be auto or host:port"),
        ("provider: {type: existing, address: 'h:99999'}", "must be auto or host:port"),
        ("provider: {type: cai-applications, subdomain_prefix: a--b}", "must be lower-case"),
        ("ray: {dashboard: 'yes'}", 'must be true or false, not "yes"'),
        ("ray: {port: 70000}", "must be a port from 1 to 65535, or auto"),
        ("gateway: {api_keys: key}", 'must be a list, not "key"'),
        ("gateway: {api_keys: ['a b']}", "must be printable ASCII"),
        ("gateway: {host: 'a b'}", "must be a host name or an IP address"),
        ("gateway: {max_concurrent: 0}", "must be 1 or more, not 0"),
        ("gateway:", "must be a mapping, not nothing"),
        ("head: [1]", "must be a mapping, not a list"),
        ("ray: {env: {A: [1]}}", "must be text, not a list"),
    ],
)
def test_faults_of_clusters(write: Write, rest: str, message: str) -> None:
    found = errors(write(CLUSTER + rest + "\n"))
    assert len(found) == 1
    assert f": {message}" in found[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"# only a comment\n---\n", "the file holds no document"),
        (b"kind: \xff\n", "the file is not UTF-8 text; the first wrong byte is in line 1"),
        (b"\x7fELF\0\0", "the file is not text"),
        (b"#" * (1024**2 + 1), "the file is larger than 1 MiB; this is not a spec"),
    ],
)
def test_unreadable_contents(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    with pytest.raises(SpecProblems) as caught:
        load_files([file])
    assert str(caught.value) == f"{file}:1:1: {message}"
    assert caught.value.code == "CAI-SPEC-001"


def test_a_folder(write: Write) -> None:
    Path("folder").mkdir()
    assert errors("folder") == ["folder:1:1: this is a folder; name the files in it"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(write: Write) -> None:
    Path(write(CLUSTER)).chmod(0)
    assert errors("f.yaml") == ["f.yaml:1:1: this user may not read the file"]


def test_a_path_that_cannot_be() -> None:
    assert "cannot be read" in errors("a\0b")[0]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + CLUSTER.encode())
    assert load_files([file])[0].name == "demo"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CLUSTER.encode())))
    document = load_files(["-"])[0]
    assert document.name == "demo"
    assert document.path == Path.cwd() / "-"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert errors("-") == ["<stdin>:1:1: the file is empty"]


def test_documents_and_their_lines(write: Write) -> None:
    write(CLUSTER + "---\n" + MODEL)
    documents = load_files(["f.yaml"])
    assert [(it.kind, it.name, it.line) for it in documents] == [
        ("Cluster", "demo", 1),
        ("Model", "m", 4),
    ]
    assert clusters(documents) == documents[:1]
    assert models(documents) == documents[1:]
    assert documents[0].cluster.name == "demo"
    assert documents[1].model.source == "org/name"
    with pytest.raises(TypeError):
        _ = documents[0].model
    with pytest.raises(CaiError) as caught:
        models(documents[:1])
    assert caught.value.code == "CAI-SPEC-007"


def test_a_syntax_error_does_not_hide_earlier_documents(write: Write) -> None:
    write(CLUSTER + "head: {cpus: 1}\n---\na: [\n")
    assert [line.split(": ")[0] for line in errors("f.yaml")] == ["f.yaml:3:8", "f.yaml:6:1"]


def test_what_yaml_could_not_read_is_faulted_once(write: Write) -> None:
    found = errors(write(CLUSTER + "head: !x {}\nray: {prot: 1}\n"))
    assert [line.split(": ", 2)[1] for line in found] == ["head", "ray.prot"]


def test_duplicate_names(write: Write) -> None:
    write(CLUSTER, "a.yaml")
    write(MODEL + "---\n" + CLUSTER, "b.yaml")
    assert errors("a.yaml", "b.yaml") == [
        'b.yaml:6:7: name: there is another Cluster "demo" at a.yaml:2:7'
    ]
    assert load_files([write("kind: Cluster\nname: m\n---\n" + MODEL)])


def test_variables(write: Write) -> None:
    write(
        CLUSTER
        + """
ray:
  port: ${PORT}
  dashboard: ${DASH:-true}
  env:
    NUMBER: 4
    DECIMAL: 1.10
    FLAG: true
    TEXT: ${DIGITS}
    EMPTY: ${NONE:-}
gateway: {host: "${HOST:-127.0.0.1}", api_keys: ["${KEY:-}"]}
"""
    )
    env = {"PORT": "7000", "DIGITS": "0123", "UNUSED": "x"}
    document = load_files(["f.yaml"], env=env)[0]
    ray = document.cluster.ray
    assert (ray.port, ray.dashboard) == (7000, True)
    assert ray.env == {
        "NUMBER": "4",
        "DECIMAL": "1.10",
        "FLAG": "true",
        "TEXT": "0123",
        "EMPTY": "",
    }
    assert document.cluster.gateway.api_keys == ()
    assert document.variables == {"PORT": "7000", "DIGITS": "0123"}
    assert document.raw["ray"]["port"] == "${PORT}"


def test_a_quoted_variable_stays_text(write: Write) -> None:
    write(CLUSTER + 'ray: {port: "${PORT}"}\n')
    assert "must be a port" in errors("f.yaml", env={"PORT": "7000"})[0]
    write(MODEL + 'engine:\n  args: {a: "${N}", b: x}\n')
    assert load_files(["f.yaml"], env={"N": "7"})[0].model.engine.args == {"a": "7", "b": "x"}


def test_an_unset_variable_is_faulted_once_and_beside_the_others(write: Write) -> None:
    write(CLUSTER + "ray:\n  port: ${PORT}\nheads: {}\n")
    assert errors("f.yaml") == [
        "f.yaml:4:9: ray.port: the variable PORT is not set",
        'f.yaml:5:1: heads: unknown key; did you mean "head"?',
    ]


def test_the_environment_is_taken_by_default(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_NAME", "from-env")
    assert load_files([write("kind: Cluster\nname: ${THE_NAME}\n")])[0].name == "from-env"


RICH = """\
kind: Model
name: m
source: ./weights
engine:
  args: {seed: "${SEED}", x: !secret topsecret}
resources:
  gpu: ${GPUS}
env: {HF_TOKEN: "${HF_TOKEN:?}", COUNT: 4}
"""


def test_a_document_is_rebuilt_from_what_is_stored(write: Write) -> None:
    write(RICH)
    env = {"SEED": "7", "GPUS": "2", "HF_TOKEN": "hf_abcdef"}
    first = load_files(["f.yaml"], overrides=["replicas=3", "env.N=${N:-5}"], env=env)[0]
    stored = json.loads(json.dumps(first.raw))
    Path("f.yaml").unlink()
    again = document_from_raw(stored, first.variables, first.path, project=first.project)
    assert again == first
    assert again.model.engine.args == {"seed": "7", "x": "topsecret"}
    assert again.model.resources.gpu == 2
    assert again.model.env == {"HF_TOKEN": "hf_abcdef", "COUNT": "4", "N": "5"}
    assert again.model.replicas == 3
    assert again.secret_values == {"hf_abcdef", "topsecret"}
    assert "hf_abcdef" not in json.dumps(first.raw)


def test_rebuilding_without_a_variable_fails_as_loading_does(write: Write) -> None:
    raw = load_files([write(RICH)], env={"SEED": "7", "GPUS": "2", "HF_TOKEN": "x"})[0].raw
    with pytest.raises(SpecProblems, match="the variable HF_TOKEN is not set"):
        document_from_raw(raw, {"SEED": "7", "GPUS": "2"}, "f.yaml")


def test_documents_can_be_pickled(write: Write) -> None:
    document = load_files([write(MODEL)])[0]
    assert pickle.loads(pickle.dumps(document)) == document


def test_relative_sources_are_below_the_folder_of_the_file(write: Write, tmp_path: Path) -> None:
    write("kind: Model\nname: m\nsource: ./weights\n", "models/f.yaml")
    document = load_files(["models/f.yaml"])[0]
    assert document.source == Source("local", str(tmp_path / "models" / "weights"))
    assert document.model.source == "./weights"


def test_the_project_is_the_nearest_folder_with_callbacks(tmp_path: Path, write: Write) -> None:
    (tmp_path / "p" / "callbacks").mkdir(parents=True)
    (tmp_path / "p" / "a" / "b").mkdir(parents=True)
    assert project_of(tmp_path / "p" / "a" / "b" / "f.yaml") == tmp_path / "p"
    assert project_of(tmp_path / "f.yaml") == tmp_path
    write(MODEL, "p/a/b/f.yaml")
    assert load_files(["p/a/b/f.yaml"])[0].project == tmp_path / "p"


def test_right_documents_are_read_beside_wrong_ones(write: Write) -> None:
    write(CLUSTER + "---\nkind: Model\nname: m\n")
    documents, problems = read_files(["f.yaml"])
    assert [document.name for document in documents] == ["demo"]
    assert [problem.key for problem in problems] == ["source"]
