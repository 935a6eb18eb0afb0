"""Which transport a vLLM model gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.engines import vllm_front


class TestTransport:
    @pytest.mark.parametrize("wanted", ["grpc", "http"])
    def test_as_the_spec_says(self, wanted: Any) -> None:
        assert vllm_front.choose_transport(wanted, {}) == {wanted: "the spec says so"}

    def test_arguments_of_the_http_server(self, made_up_vllm: Path) -> None:
        found = vllm_front.choose_transport("auto", {"reasoning-parser": "x"})
        assert list(found) == ["http"]
        assert "engine.args.reasoning-parser" in found["http"]

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
