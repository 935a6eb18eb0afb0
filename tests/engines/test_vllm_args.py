"""vLLM's arguments, read from the installed vLLM where there is one and from a made-up one."""

from __future__ import annotations

import argparse
import dataclasses
import json
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


LORA = [{"name": "a"}, {"name": "b"}]


class TestParsed:
    @pytest.fixture
    def parser(self, made_up_vllm: Path) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser()
        parser.add_argument("--max-model-len", type=int)
        parser.add_argument("--enable-log-requests", action="store_true")
        parser.add_argument("--device-ids", type=lambda text: text.split(","))
        parser.add_argument("--lora-modules", type=json.loads, nargs="+")
        return parser

    @pytest.mark.parametrize(
        ("args", "name", "value"),
        [
            ({"max-model-len": 8}, "max_model_len", 8),
            ({"enable_log_requests": True}, "enable_log_requests", True),
            ({"enable_log_requests": False}, "enable_log_requests", False),
            ({"enforce_eager": {"a": 1}}, "enforce_eager", {"a": 1}),
            ({"device_ids": [0, 1]}, "device_ids", ["0", "1"]),
            ({"lora_modules": [{"name": "a"}, {"name": "b"}]}, "lora_modules", LORA),
        ],
    )
    def test_values(
        self, parser: argparse.ArgumentParser, args: dict[str, Any], name: str, value: Any
    ) -> None:
        assert getattr(vllm_args.parsed(parser, args), name) == value


@pytest.mark.vllm
def test_every_field_goes_through_the_real_parser() -> None:
    """Each with its default, and each that vLLM's types allow with another value."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    actions = {action.dest: action for action in parser._actions}
    names = sorted(vllm_args.known_args("grpc"))
    assert len(names) > 200
    wrong = {}
    for name in names:
        value = _example(actions.get(name))
        try:
            found = getattr(vllm_args.parsed(parser, {name: value}), name)
        except SystemExit:
            found = "refused"
        if _plain(found, value) != value:
            wrong[name] = (value, found)
    assert not wrong


def _example(action: Any) -> Any:
    """A value that is not the default, as a spec would have it."""
    if action is None:
        return True
    if action.nargs == 0:
        return not action.default
    if action.choices:
        return next(each for each in action.choices if each != action.default)
    values: list[Any] = [17, "x", 0.5, {}, "0,1"]
    for value in values:
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        try:
            taken = action.type(text) if action.type else text
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            continue
        if _plain(taken, value) == value:
            return [value] if action.nargs == "+" else value
    return values[0]


def _plain(found: Any, value: Any) -> Any:
    """A configuration that vLLM made of a mapping counts as that mapping, one word as its list."""
    if value == {} and dataclasses.is_dataclass(found):
        return {}
    return value if found == [value] else found
