"""SGLang's arguments: against its real parser where it is installed, and against the options
recorded from one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes import record_sglang

from ray_serve_cai.engines import sglang_config
from ray_serve_cai.errors import PlanError, SpecError

FAKES = Path(record_sglang.__file__).parent / "sglang_package"
HAS_SGLANG = find_spec("sglang") is not None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recorded options, in place of an installed SGLang's."""
    monkeypatch.syspath_prepend(str(FAKES))
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        monkeypatch.delitem(sys.modules, name)
    sglang_config.known_args.cache_clear()
    yield
    sglang_config.known_args.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        del sys.modules[name]


@pytest.mark.usefixtures("stand_in")
class TestRecorded:
    def test_names_in_either_spelling(self) -> None:
        for name in ("tp_size", "tensor-parallel-size", "mem-fraction-static", "no_dllm_fdfo"):
            sglang_config.check_args({name: 1})

    def test_near_match(self) -> None:
        with pytest.raises(PlanError) as caught:
            sglang_config.check_args({"mem_fraction_statik": 0.8})
        assert caught.value.code == "CAI-PLAN-002"
        assert caught.value.message == (
            "engine.args.mem_fraction_statik: SGLang has no such argument; "
            'did you mean "mem_fraction_static"?'
        )

    @pytest.mark.parametrize(
        ("args", "line"),
        [
            ({"tp_size": 2}, ["--tp-size=2"]),
            ({"enable-metrics": True}, ["--enable-metrics"]),
            ({"enable_metrics": False}, []),
            ({"dllm_fdfo": False}, ["--no-dllm-fdfo"]),
            ({"revision": None}, []),
            ({"lora_target_modules": ["q_proj", "k"]}, ["--lora-target-modules", "q_proj", "k"]),
            ({"json_model_override_args": {"a": 1}}, ['--json-model-override-args={"a": 1}']),
            ({"chat_template": "-x"}, ["--chat-template=-x"]),
        ],
    )
    def test_command_line(self, args: dict[str, Any], line: list[str]) -> None:
        assert sglang_config.command_line(args) == line

    def test_the_builder_checks_and_builds(self) -> None:
        builder = sglang_config.SGLangConfigBuilder()
        config = {"model": "org/m", "mem_fraction_static": 0.8, "replicas": 2}
        assert builder.build_config(config) == {"mem_fraction_static": 0.8}
        with pytest.raises(PlanError, match='did you mean "tp_size"'):
            builder.build_config(config | {"tp_sizes": 2})
        with pytest.raises(SpecError, match='no "model"'):
            builder.build_config({"tp_size": 2})


@pytest.mark.parametrize("name", ["model_path", "model-path", "port", "api_key", "smg_grpc_mode"])
def test_what_cai_sets_itself(name: str) -> None:
    with pytest.raises(PlanError, match=rf"engine\.args\.{name}: set by cai"):
        sglang_config.check_args({name: "x"})


@pytest.mark.parametrize(
    ("wanted", "args", "transport", "why"),
    [
        ("auto", {}, "grpc", "fastest"),
        ("auto", {"tool-call-parser": "qwen"}, "http", "engine.args.tool-call-parser belongs"),
        ("grpc", {"reasoning_parser": "qwen3"}, "grpc", "the spec says so"),
        ("http", {}, "http", "the spec says so"),
    ],
)
def test_transport(wanted: Any, args: dict[str, Any], transport: str, why: str) -> None:
    ((chosen, reason),) = sglang_config.choose_transport(wanted, args).items()
    assert chosen == transport
    assert why in reason


def test_front() -> None:
    assert sglang_config.servicer({}) == "python"
    assert sglang_config.servicer({"SMG_SGLANG_SERVICER_IMPL": "rust"}) == "rust"


@pytest.mark.parametrize(
    ("args", "gpus"),
    [
        ({}, 1),
        ({"tp_size": 4}, 4),
        ({"tensor-parallel-size": 4, "pp_size": 2}, 8),
        ({"tp_size": 4, "dp_size": 2}, 8),
        ({"tp_size": 4, "dp_size": 4, "enable_dp_attention": True}, 4),
    ],
)
def test_gpus_of_a_replica(args: dict[str, Any], gpus: int) -> None:
    factory = sglang_config.SGLangDeploymentFactory()
    made = factory.create_deployment({"model": "org/m@main"}, args)
    assert made["resources"] == {"gpu": gpus}
    assert (made["name"], made["source"]) == ("m", "org/m@main")


def test_gpus_that_the_configuration_names_win() -> None:
    config = {"model": "org/m", "resources": {"gpu": 8, "cpu": 2}}
    made = sglang_config.SGLangDeploymentFactory().create_deployment(config, {"tp_size": 4})
    assert made["resources"] == {"gpu": 8, "cpu": 2}


@pytest.mark.skipif(not HAS_SGLANG, reason="SGLang is not installed")
class TestInstalled:
    """The real package. Run with sglang 0.5.23; it is no requirement of the tests."""

    def test_the_source_tells_all_options(self) -> None:
        sglang_config.known_args.cache_clear()
        real = {name for names in record_sglang.options().values() for name in names}
        assert sglang_config.known_args() == {name[2:].replace("-", "_") for name in real}

    def test_the_real_parser_takes_our_command_line(self) -> None:
        import argparse

        from sglang.srt.server_args import ServerArgs

        parser = argparse.ArgumentParser()
        ServerArgs.add_cli_args(parser)
        args = {"tp_size": 2, "mem_fraction_static": 0.5, "disable_radix_cache": True}
        more = {"json_model_override_args": {"a": 1}, "lora_target_modules": ["q_proj"]}
        line = sglang_config.command_line({"model_path": "/m"} | args | more)
        made = ServerArgs.from_cli_args(parser.parse_args([*line, "--smg-grpc-mode"]))
        assert (made.tp_size, made.mem_fraction_static, made.smg_grpc_mode) == (2, 0.5, True)
        assert (made.disable_radix_cache, made.json_model_override_args) == (True, '{"a": 1}')
