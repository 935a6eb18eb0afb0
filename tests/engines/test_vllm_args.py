"""vLLM's arguments, read from the installed vLLM where there is one and from a made-up one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines import vllm_args
from ray_serve_cai.errors import PlanError

HAS_VLLM = find_spec("vllm") is not None


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ({}, []),
        ({"max_model_len": 1024}, ["--max-model-len=1024"]),
        ({"max-model-len": 1024}, ["--max-model-len=1024"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"seed": None}, []),
        ({"dtype": "bfloat16"}, ["--dtype=bfloat16"]),
        ({"chat_template": "-x"}, ["--chat-template=-x"]),
        ({"middleware": ["a.b", "c.d"]}, ["--middleware", "a.b", "c.d"]),
        ({"hf_overrides": {"a": [1]}}, ['--hf-overrides={"a": [1]}']),
        ({"lora_modules": [{"name": "x"}]}, ['--lora-modules=[{"name": "x"}]']),
    ],
)
def test_command_line(args: dict[str, Any], line: list[str]) -> None:
    assert vllm_args.command_line(args) == line


@pytest.mark.parametrize("name", ["model", "served_model_name", "served-model-name", "port"])
def test_what_cai_sets_itself(name: str) -> None:
    with pytest.raises(PlanError, match=rf"engine\.args\.{name}: set by cai") as caught:
        vllm_args.check_args({name: "x"}, transport="grpc")
    assert caught.value.code == "CAI-PLAN-002"


class TestKnownArguments:
    def test_names_come_from_the_source(self, made_up_vllm: Path) -> None:
        engine = {"model", "max_model_len", "enforce_eager", "enable_log_requests"}
        assert vllm_args.known_args("grpc") == engine
        assert vllm_args.known_args("http") == engine | {"chat_template", "reasoning_parser"}

    def test_unknown(self, made_up_vllm: Path) -> None:
        with pytest.raises(PlanError) as caught:
            vllm_args.check_args({"max_model_length": 1}, transport="grpc")
        assert caught.value.message == (
            "engine.args.max_model_length: vLLM has no such argument; "
            'did you mean "max_model_len"?'
        )

    @pytest.mark.parametrize("name", ["max_model_len", "max-model-len"])
    def test_known(self, made_up_vllm: Path, name: str) -> None:
        vllm_args.check_args({name: 1}, transport="grpc")

    def test_of_the_http_server_only(self, made_up_vllm: Path) -> None:
        args = {"reasoning_parser": "deepseek_r1"}
        vllm_args.check_args(args, transport="http")
        with pytest.raises(PlanError, match="no such argument"):
            vllm_args.check_args(args, transport="grpc")

    def test_without_vllm_nothing_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_args, "find_spec", lambda name: None)
        vllm_args.known_args.cache_clear()
        vllm_args.check_args({"anything": 1}, transport="grpc")
        vllm_args.known_args.cache_clear()

    @pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")
    def test_the_installed_vllm(self) -> None:
        vllm_args.known_args.cache_clear()
        assert {"tensor_parallel_size", "max_model_len"} <= vllm_args.known_args("grpc")
        assert {"chat_template", "enable_auto_tool_choice"} <= vllm_args.known_args("http")
        assert "chat_template" not in vllm_args.known_args("grpc")
