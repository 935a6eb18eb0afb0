"""The guard in vLLM's engine core: what would end it becomes an error of one request."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ray_serve_cai.engines import vllm_plugin

MODEL = SimpleNamespace(max_model_len=4, get_vocab_size=lambda: 10)


def request(tokens: Any, **fields: Any) -> Any:
    defaults = {"prompt_token_ids": tokens, "prompt_is_token_ids": None, "mm_features": None}
    defaults |= {"request_id": "r", "client_index": 3, "sampling_params": None}
    return SimpleNamespace(**(defaults | fields))


@pytest.mark.parametrize(
    ("tokens", "fault"),
    [
        ([], "the prompt is empty"),
        ([1, 2, 3, 4, 5], "the prompt has 5 tokens; the context 4"),
        ([1, 10], "a token is outside the vocabulary of 10"),
        ([-1], "a token is outside the vocabulary of 10"),
        ([0, 9], None),
        (None, None),
    ],
)
def test_prompts(tokens: Any, fault: str | None) -> None:
    assert vllm_plugin.wrong_prompt(request(tokens), MODEL) == fault


def test_placeholders_of_images_may_lie_outside_the_vocabulary() -> None:
    assert vllm_plugin.wrong_prompt(request([1, 99], mm_features=["image"]), MODEL) is None


class Invalid(Exception):
    """As vLLM's validation error, which is no ValueError."""


@pytest.mark.parametrize(
    ("backend", "error", "fault"),
    [
        ("xgrammar", None, None),
        ("xgrammar", "no schema", "no schema"),
        ("guidance", "no schema", None),
    ],
)
def test_grammars(
    monkeypatch: pytest.MonkeyPatch, backend: str, error: str | None, fault: str | None
) -> None:
    def validate(params: Any) -> None:
        if error:
            raise Invalid(error) from RuntimeError("at line 1")

    _install_validation(monkeypatch, validate)
    assert vllm_plugin.wrong_grammar(structured(backend)) == fault


def test_a_feature_that_is_left_out_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def validate(params: Any) -> None:
        raise Invalid("features not supported")

    _install_validation(monkeypatch, validate)
    assert vllm_plugin.wrong_grammar(structured("xgrammar")) is None


def structured(backend: str) -> Any:
    outputs = SimpleNamespace(_backend=backend)
    return request([1], sampling_params=SimpleNamespace(structured_outputs=outputs))


def _install_validation(monkeypatch: pytest.MonkeyPatch, validate: Any) -> None:
    errors = ModuleType("vllm.exceptions")
    errors.VLLMValidationError = Invalid  # type: ignore[attr-defined]
    backend = ModuleType("vllm.v1.structured_output.backend_xgrammar")
    backend.validate_xgrammar_grammar = validate  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.structured_output"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (errors, backend):
        monkeypatch.setitem(sys.modules, module.__name__, module)


class TestGuard:
    @pytest.fixture
    def core(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class EngineCore:
            vllm_config = SimpleNamespace(model_config=MODEL)

            def __init__(self) -> None:
                self.ended: list[str] = []

            def preprocess_add_request(self, request: Any) -> Any:
                return request.prompt_token_ids[0] and request.prompt_token_ids

            def take(self, request: Any) -> Any:
                """As vLLM's input thread does."""
                try:
                    return self.preprocess_add_request(request)
                except (TypeError, ValueError):
                    self._handle_request_preproc_error(request)

            def _handle_request_preproc_error(self, request: Any) -> None:
                self.ended.append("error")

            def _send_abort_outputs_to_client(self, requests: list[str], client: int) -> None:
                self.ended.append(f"abort of {requests[0]} for {client}")

        module = ModuleType("vllm.v1.engine.core")
        module.EngineCoreProc = EngineCore  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vllm.v1.engine.core", module)
        vllm_plugin._guard_core()
        return EngineCore()

    def test_a_wrong_prompt_is_aborted(self, core: Any) -> None:
        assert core.take(request([])) is None
        assert core.ended == ["abort of r for 3"]

    def test_other_mistakes_are_errors_still(self, core: Any) -> None:
        wrong = request(None)
        assert core.take(wrong) is None
        assert core.ended == ["error"]

    def test_lets_through(self, core: Any) -> None:
        assert core.take(request([1, 2])) == [1, 2]
        assert core.ended == []

    def test_is_there_once(self, core: Any) -> None:
        guarded = type(core).preprocess_add_request
        vllm_plugin._guard_core()
        assert type(core).preprocess_add_request is guarded


def test_the_replicas_placement_group_is_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    class EngineArgs:
        def create_engine_config(self, usage: str) -> Any:
            return SimpleNamespace(usage=usage, parallel_config=SimpleNamespace())

    module = ModuleType("vllm.engine.arg_utils")
    monkeypatch.setattr(module, "EngineArgs", EngineArgs, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    digits = "ab" * 18
    for _ in range(2):
        vllm_plugin._place_workers(digits)
    config = EngineArgs().create_engine_config("api")
    assert config.usage == "api"
    assert config.parallel_config.placement_group.id.hex() == digits


def test_folders_of_the_host_stay_on_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM gives its Ray workers all of the environment but what is in this set."""
    kept: set[str] = set()
    module = ModuleType("vllm.ray.ray_env")
    monkeypatch.setattr(module, "RAY_NON_CARRY_OVER_ENV_VARS", kept, raising=False)
    for name in ("vllm", "vllm.ray"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vllm_plugin._keep_folders_here()
    assert {"TMPDIR", "VLLM_RPC_BASE_PATH", "CAI_WORKSPACE"} <= kept
