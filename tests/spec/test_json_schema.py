from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ray_serve_cai.spec import json_schema

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cluster_configs").rglob("*.yaml"))


def validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema("cluster" if kind == "Cluster" else "model"))


@pytest.mark.parametrize("kind", ["cluster", "model"])
def test_the_schema_is_one(kind: Any) -> None:
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == f"cai {kind} spec"
    assert "kind" in schema["required"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_specs_fit(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        validator(document["kind"]).validate(document)


@pytest.mark.parametrize("kind", ["cluster", "model"])
def test_every_field_is_described(kind: Any) -> None:
    schema = json_schema(kind)
    for name, part in {"": schema, **schema["$defs"]}.items():
        for key, field in part.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


CLUSTER = {"kind": "Cluster", "name": "c"}
MODEL = {"kind": "Model", "name": "m", "source": "org/name"}


@pytest.mark.parametrize(
    "document",
    [
        {**CLUSTER, "ray": {"port": "${PORT}", "object_store_memory": "1Gi", "env": {"A": 1}}},
        {**CLUSTER, "gateway": {"max_request_bytes": 1000, "port": "auto"}},
        {**CLUSTER, "workers": [{"name": "a", "count": "${N:-2}"}]},
        {**MODEL, "replicas": {"min": 0, "max": 2, "idle_after": "10m"}},
        {**MODEL, "replicas": "${N}", "callbacks": [{"class": "a.B", "timeout": None}]},
    ],
)
def test_what_fits(document: dict[str, Any]) -> None:
    assert not list(validator(document["kind"]).iter_errors(document))


@pytest.mark.parametrize(
    "document",
    [
        {"name": "c", "kind": "Clusters"},
        {"name": "c"} | {"head": {}},
        {**CLUSTER, "head": {"cpus": 1}},
        {**CLUSTER, "name": "Upper"},
        {**CLUSTER, "ray": {"port": 0}},
        {**CLUSTER, "ray": {"object_store_memory": "lots"}},
        {**CLUSTER, "provider": {"type": "other"}},
    ],
)
def test_what_does_not_fit(document: dict[str, Any]) -> None:
    assert list(validator("Cluster").iter_errors(document))
    assert list(validator("Model").iter_errors({**MODEL, "engine": {"transport": "x"}}))


def test_defaults_read_as_they_are_written() -> None:
    defs = json_schema("model")["$defs"]
    assert defs["Callback"]["properties"]["timeout"]["default"] == "5m"
    gateway = json_schema("cluster")["$defs"]["Gateway"]["properties"]
    assert gateway["max_request_bytes"]["default"] == "64Mi"
