from __future__ import annotations

from pathlib import Path

import pytest

from ray_serve_cai.errors import CaiError, SpecProblems
from ray_serve_cai.spec import Document, load_files

SPEC = """\
kind: Cluster
name: c
head: {cpu: 1}
workers:
  - {name: cpu, count: 1}
  - {name: gpu, count: 1}
---
kind: Model
name: m
source: org/name
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(SPEC)


def load(*overrides: str, env: dict[str, str] | None = None) -> list[Document]:
    return load_files(["f.yaml"], overrides=overrides, env=env or {})


def message(*overrides: str) -> str:
    with pytest.raises(SpecProblems) as caught:
        load(*overrides)
    return str(caught.value)


def test_values_by_key_index_and_name() -> None:
    cluster, model = load(
        "head.cpu=4",
        "workers[0].count=2",
        "workers[gpu].count=3",
        "gateway.metrics.port=9000",
        "gateway.api_keys=[one-key, another]",
        "engine.args.max-model-len=100",
        "env.X=a=b",
        "replicas={min: 0, max: 2}",
    )
    assert cluster.cluster.head.cpu == 4
    assert [group.count for group in cluster.cluster.workers] == [2, 3]
    assert cluster.cluster.gateway.metrics.port == 9000
    assert cluster.cluster.gateway.api_keys == ("one-key", "another")
    assert model.model.engine.args == {"max-model-len": 100}
    assert model.model.env == {"X": "a=b"}
    assert cluster.raw["head"] == {"cpu": 4}


def test_a_whole_mapping_is_replaced() -> None:
    assert load("head={gpu: 1}")[0].cluster.head.cpu == 1.0
    assert "must be a mapping, not nothing" in message("head=")


def test_variables_and_secrets_in_a_value() -> None:
    document = load("ray.port=${P}", "ray.env.X=!secret abcdef", env={"P": "7000"})[0]
    assert document.cluster.ray.port == 7000
    assert document.secret_values == {"abcdef"}


def test_the_last_of_two_wins() -> None:
    assert load("head.cpu=2", "head.cpu=3")[0].cluster.head.cpu == 3


def test_both_kinds_get_what_both_know() -> None:
    assert [document.name for document in load("name=same")] == ["same", "same"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "head.cpus=4",
            'f.yaml:3:7: head.cpus: unknown key; did you mean "cpu"? (from --set head.cpus)',
        ),
        (
            "haed.cpu=4",
            'f.yaml:1:1: haed: unknown key in --set haed.cpu; did you mean "head"?',
        ),
        (
            "head.cpu=x",
            'f.yaml:3:13: head.cpu: must be a number, not "x" (from --set head.cpu)',
        ),
        (
            "workers[2].count=1",
            "f.yaml:5:3: workers: has 2 entries, counted from 0 (from --set workers[2].count)",
        ),
        (
            "workers[gpus].count=1",
            'f.yaml:5:3: workers: has no entry "gpus"; did you mean "gpu"? '
            "(from --set workers[gpus].count)",
        ),
        (
            "head[0]=1",
            "f.yaml:3:7: head: is not a list (from --set head[0])",
        ),
        (
            "name.x=1",
            'f.yaml:2:7: name: is not a mapping, so it has no "x" (from --set name.x)\n'
            'f.yaml:9:7: name: is not a mapping, so it has no "x" (from --set name.x)',
        ),
        (
            "ray.port=${NOT_SET}",
            "f.yaml:1:1: ray.port: the variable NOT_SET is not set (from --set ray.port)",
        ),
    ],
)
def test_faults_name_the_option(override: str, expected: str) -> None:
    assert message(override) == expected


def test_a_secret_value_is_not_in_the_message() -> None:
    assert "hunter2" not in message("gateway.api_keyz=[hunter2]")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("head.cpu", '--set takes KEY=VALUE such as head.cpu=4, not "head.cpu"'),
        ("=4", '--set takes KEY=VALUE such as head.cpu=4, not ""'),
        ("head..cpu=4", '--set takes KEY=VALUE such as head.cpu=4, not "head..cpu"'),
        ("head.cpu=[1", "--set head.cpu: the value is not YAML: "),
        ("head.cpu=--- 1\n--- 2", "--set head.cpu: the value is not YAML: "),
    ],
)
def test_what_is_no_override(override: str, expected: str) -> None:
    with pytest.raises(CaiError) as caught:
        load(override)
    assert caught.value.code == "CAI-CLI-001"
    assert caught.value.message.startswith(expected)
