from __future__ import annotations

import enum
import logging

import pytest

from ray_serve_cai.callbacks import (
    CallbackCtx,
    DownloadMode,
    NodeInitializationContext,
    Placement,
)
from ray_serve_cai.callbacks.context import adopt, download_mode, env_vars, snapshot, wrong_field


class RayMode(enum.Enum):
    """As Ray's own: the words are the names."""

    TOKENIZER_ONLY = 2


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (None, DownloadMode.MODEL_AND_TOKENIZER),
        ("NONE", DownloadMode.NONE),
        ("none", DownloadMode.NONE),
        ("TOKENIZER_ONLY", DownloadMode.TOKENIZER_ONLY),
        ("EXCLUDE_SAFETENSORS", DownloadMode.EXCLUDE_SAFETENSORS),
        ("MODEL_AND_TOKENIZER", DownloadMode.MODEL_AND_TOKENIZER),
        (DownloadMode.NONE, DownloadMode.NONE),
        (RayMode.TOKENIZER_ONLY, DownloadMode.TOKENIZER_ONLY),
    ],
)
def test_modes(word: str | None, expected: DownloadMode, caplog: pytest.LogCaptureFixture) -> None:
    assert download_mode(word) is expected
    assert caplog.text == ""


@pytest.mark.parametrize("word", ["CUSTOM", "", "MODEL"])
def test_other_words_are_the_default_with_a_warning(
    word: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert download_mode(word) is DownloadMode.MODEL_AND_TOKENIZER
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f'"{word}" is no download mode' in record.getMessage()


def test_one_class_under_two_names() -> None:
    assert NodeInitializationContext is CallbackCtx


def test_contexts_share_nothing() -> None:
    one, other = CallbackCtx(), CallbackCtx()
    one.custom_data["a"] = one.extra_init_kwargs["a"] = 1
    assert other == CallbackCtx()


def test_a_new_context_is_right() -> None:
    assert wrong_field(CallbackCtx()) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime_env": {}},
        {"runtime_env": {"env_vars": {"A": "1"}}},
        {"runtime_env": {"env_vars": None}},
        {"local_node_download_model": "CUSTOM", "worker_node_download_model": RayMode(2)},
        {"extra_init_kwargs": {"a": object()}, "custom_data": {1: object()}},
        {"run_init_node": False, "download_result": object(), "placement_group": object()},
    ],
)
def test_what_hooks_may_set(fields: dict[str, object]) -> None:
    assert wrong_field(CallbackCtx(**fields)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"custom_data": []}, "ctx.custom_data must be a dict, not list"),
        ({"run_init_node": "no"}, "ctx.run_init_node must be True or False, not str"),
        ({"extra_init_kwargs": {1: 2}}, "ctx.extra_init_kwargs must be a dict with text as keys"),
        ({"runtime_env": {"pip": [], "conda": ""}}, "conda, pip cannot be applied"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, 'ctx.runtime_env["env_vars"] must be'),
        ({"local_node_download_model": 3}, "ctx.local_node_download_model must be text, not int"),
    ],
)
def test_what_they_may_not(fields: dict[str, object], said: str) -> None:
    assert said in (wrong_field(CallbackCtx(**fields)) or "")  # type: ignore[arg-type]


def test_a_deleted_field() -> None:
    ctx = CallbackCtx()
    del ctx.custom_data
    assert wrong_field(ctx) == "ctx.custom_data was deleted"


@pytest.mark.parametrize("runtime_env", [None, {}, {"env_vars": None}, {"env_vars": {}}])
def test_no_variables(runtime_env: dict[str, object] | None) -> None:
    assert env_vars(CallbackCtx(runtime_env=runtime_env)) == {}


def test_variables() -> None:
    assert env_vars(CallbackCtx(runtime_env={"env_vars": {"A": "1"}})) == {"A": "1"}


def test_a_snapshot_does_not_follow() -> None:
    ctx = CallbackCtx(runtime_env={"env_vars": {"A": "1"}})
    before = snapshot(ctx)
    assert ctx.runtime_env is not None
    ctx.runtime_env["env_vars"]["B"] = "2"
    ctx.custom_data["a"] = 1
    assert before["runtime_env"] == {"env_vars": {"A": "1"}}
    assert before["custom_data"] == {}


def test_what_a_constructor_set_is_adopted() -> None:
    ctx = CallbackCtx(custom_data={"a": 1}, local_node_download_model="NONE")
    own = CallbackCtx(llm_config="theirs", run_init_node=False, custom_data={"b": 2})
    adopt(ctx, own)
    assert ctx == CallbackCtx(
        run_init_node=False, custom_data={"a": 1, "b": 2}, local_node_download_model="NONE"
    )


def test_a_context_with_fewer_fields_is_adopted() -> None:
    class Fewer:
        run_init_node = False

    ctx = CallbackCtx()
    adopt(ctx, Fewer())
    assert ctx == CallbackCtx(run_init_node=False)


def test_placement_as_data() -> None:
    bundle = {"GPU": 1.0}
    data = Placement((bundle,), "SPREAD").data()
    assert data == {"bundles": [{"GPU": 1.0}], "strategy": "SPREAD"}
    assert data["bundles"][0] is not bundle
