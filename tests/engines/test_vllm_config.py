"""vLLM's arguments, read from the installed vLLM where there is one and from a made-up one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines import vllm_config
from ray_serve_cai.errors import PlanError

HAS_VLLM = find_spec("vllm") is not None
ENGINE = """
class EngineArgs:
    model: str = ""
    max_model_len: int | None = None
    enforce_eager: bool = False
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
class Other:
    not_an_argument: int = 0
"""
FRONT = """
class BaseFrontendArgs:
    chat_template: str | None = None
class FrontendArgs(BaseFrontendArgs):
    reasoning_parser: str = ""
"""


@pytest.fixture
def made_up_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "vllm"
    for name, text in (
        ("__init__.py", "raise ImportError('planning must not import vLLM')"),
        ("engine/arg_utils.py", ENGINE),
        ("entrypoints/launchers/cli_args.py", FRONT),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    vllm_config.known_args.cache_clear()
    yield root
    vllm_config.known_args.cache_clear()


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
    assert vllm_config.command_line(args) == line


@pytest.mark.parametrize("name", ["model", "served_model_name", "served-model-name", "port"])
def test_what_cai_sets_itself(name: str) -> None:
    with pytest.raises(PlanError, match=rf"engine\.args\.{name}: set by cai") as caught:
        vllm_config.check_args({name: "x"}, transport="grpc")
    assert caught.value.code == "CAI-PLAN-002"


class TestKnownArguments:
    def test_names_come_from_the_source(self, made_up_vllm: Path) -> None:
        engine = {"model", "max_model_len", "enforce_eager", "enable_log_requests"}
        assert vllm_config.known_args("grpc") == engine
        assert vllm_config.known_args("http") == engine | {"chat_template", "reasoning_parser"}

    def test_unknown(self, made_up_vllm: Path) -> None:
        with pytest.raises(PlanError) as caught:
            vllm_config.check_args({"max_model_length": 1}, transport="grpc")
        assert caught.value.message == (
            "engine.args.max_model_length: vLLM has no such argument; "
            'did you mean "max_model_len"?'
        )

    @pytest.mark.parametrize("name", ["max_model_len", "max-model-len"])
    def test_known(self, made_up_vllm: Path, name: str) -> None:
        vllm_config.check_args({name: 1}, transport="grpc")

    def test_of_the_http_server_only(self, made_up_vllm: Path) -> None:
        args = {"reasoning_parser": "deepseek_r1"}
        vllm_config.check_args(args, transport="http")
        with pytest.raises(PlanError, match="no such argument"):
            vllm_config.check_args(args, transport="grpc")

    def test_without_vllm_nothing_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_config, "find_spec", lambda name: None)
        vllm_config.known_args.cache_clear()
        vllm_config.check_args({"anything": 1}, transport="grpc")
        vllm_config.known_args.cache_clear()

    @pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")
    def test_the_installed_vllm(self) -> None:
        vllm_config.known_args.cache_clear()
        assert {"tensor_parallel_size", "max_model_len"} <= vllm_config.known_args("grpc")
        assert {"chat_template", "enable_auto_tool_choice"} <= vllm_config.known_args("http")
        assert "chat_template" not in vllm_config.known_args("grpc")


class TestTransport:
    @pytest.mark.parametrize("wanted", ["grpc", "http"])
    def test_as_the_spec_says(self, wanted: Any) -> None:
        assert vllm_config.choose_transport(wanted, {}) == {wanted: "the spec says so"}

    def test_arguments_of_the_http_server(self, made_up_vllm: Path) -> None:
        found = vllm_config.choose_transport("auto", {"reasoning-parser": "x"})
        assert list(found) == ["http"]
        assert "engine.args.reasoning-parser" in found["http"]

    def test_without_the_servicer(
        self, made_up_vllm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {"vllm": object()}
        monkeypatch.setattr(vllm_config, "_front_only", frozenset)
        monkeypatch.setattr(vllm_config, "find_spec", known.get)
        assert vllm_config.choose_transport("auto", {}) == {
            "http": "smg-grpc-servicer is not installed"
        }

    def test_fastest_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_config, "_front_only", frozenset)
        monkeypatch.setattr(vllm_config, "find_spec", lambda name: object())
        assert list(vllm_config.choose_transport("auto", {})) == ["grpc"]
