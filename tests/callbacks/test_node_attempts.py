"""`initialize_node`: failures and what runs after them, and whose instances run."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from made_up import initialize, one_hook, raising, recorder

from ray_serve_cai.callbacks import (
    CallbackBase,
    CallbackConfig,
    CallbackCtx,
    LLMConfig,
    initialize_node,
)
from ray_serve_cai.callbacks.build import CallbackSpec
from ray_serve_cai.callbacks.hooks import HOOKS, hooks_of
from ray_serve_cai.errors import HookError

START = HOOKS[: HOOKS.index("on_ready")]


class TestFailure:
    @pytest.mark.parametrize("hook", START)
    def test_on_failure_and_on_shutdown_once_each(self, hook: str) -> None:
        calls: list[str] = []
        bad = type("Bad", (recorder("", calls),), {hook: raising(ValueError("boom"))})
        with pytest.raises(HookError) as caught:
            initialize([recorder("1.", []), bad])
        assert isinstance(caught.value.__cause__, ValueError)
        assert calls == [*START[: START.index(hook)], "on_failure", "on_shutdown"]

    def test_in_reverse(self) -> None:
        calls: list[str] = []
        bad = one_hook("on_post_initialization", raising(ValueError("boom")))
        with pytest.raises(HookError):
            initialize([recorder("1.", calls), recorder("2.", calls), bad])
        tail = ["2.on_failure", "1.on_failure", "2.on_shutdown", "1.on_shutdown"]
        assert calls[-4:] == tail
        assert not set(tail) & set(calls[:-4])

    def test_a_failing_teardown_hides_nothing(self) -> None:
        calls: list[str] = []
        kind = one_hook(
            "on_ready",
            None,
            on_pre_download=raising(ValueError("first")),
            on_failure=raising(ValueError("second")),
            on_shutdown=lambda self: calls.append("on_shutdown"),
        )
        with pytest.raises(HookError, match="first"):
            initialize(kind)
        assert calls == ["on_shutdown"]

    def test_logged_only(self) -> None:
        calls: list[str] = []
        bad = type("Bad", (recorder("", calls),), {"on_pre_download": raising(ValueError())})
        initialize(CallbackConfig(bad, raise_error_on_callback=False))
        assert calls == [each for each in START if each != "on_pre_download"]

    def test_a_constructor_that_fails_does_so_again(self) -> None:
        """Not: is left out of the second attempt without a word."""
        bad = one_hook("on_ready", lambda self: None, __init__=raising(OSError("no disk")))
        config = LLMConfig("m", "builtin:demo", callback=bad)
        for _ in range(2):
            with pytest.raises(HookError, match="no disk"):
                asyncio.run(initialize_node(config))

    def test_cancelled(self) -> None:
        calls: list[str] = []
        started = threading.Event()

        async def hook(self: object) -> None:
            started.set()
            await asyncio.Event().wait()

        kind = type("Hanging", (recorder("", calls),), {"on_pre_download": hook})

        async def main() -> None:
            config = LLMConfig("m", "builtin:demo", callback=CallbackSpec(kind))
            running = asyncio.ensure_future(initialize_node(config))
            await asyncio.to_thread(started.wait)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(main())
        assert calls[-2:] == ["on_failure", "on_shutdown"]


class TestInstances:
    def test_the_configs_own_instance_runs(self) -> None:
        class Stateful:
            def __init__(self) -> None:
                self.calls = 0

            def on_pre_initialization(self, ctx: CallbackCtx) -> None:
                self.calls += 1

            def on_post_initialization(self, ctx: CallbackCtx) -> None:
                ctx.custom_data["calls"] = self.calls

        config = LLMConfig("m", "builtin:demo", callback_class=Stateful)
        before = config.get_or_create_callback()
        assert asyncio.run(initialize_node(config)).custom_data == {"calls": 1}
        assert config.get_or_create_callback() is before
        assert before.calls == 1

    def test_an_attribute_called_ctx_stays(self) -> None:
        """Only the base class has the context there."""

        class Mine:
            ctx = "its own"

            def on_post_initialization(self, ctx: CallbackCtx) -> None:
                ctx.custom_data["found"] = self.ctx

        config = LLMConfig("m", "builtin:demo", callback=Mine)
        config.get_or_create_callback()
        assert asyncio.run(initialize_node(config)).custom_data == {"found": "its own"}

    def test_each_run_has_a_context_of_its_own(self) -> None:
        class Mine(CallbackBase):
            async def on_after_node_init(self) -> None:
                data = self.ctx.custom_data
                data["runs"] = data.get("runs", 0) + 1

        config = LLMConfig("m", "builtin:demo", callback=Mine)
        for _ in range(2):
            assert asyncio.run(initialize_node(config)).custom_data == {"runs": 1}

    def test_ctx_kwargs(self) -> None:
        kwargs = {"ctx_kwargs": {"run_init_node": False, "custom_data": {"a": 1}}}
        output = initialize(CallbackConfig(CallbackBase, kwargs), "org/name")
        assert output.download_result.folder is None
        assert output.custom_data == {"a": 1}


class TestRaysOwnBaseClass:
    def test_runs_unchanged(self) -> None:
        theirs = pytest.importorskip("ray.llm._internal.common.callbacks.base")
        calls: list[Any] = []

        class Mine(theirs.CallbackBase):  # type: ignore[name-defined,misc]
            async def on_before_node_init(self) -> None:
                calls.append((self.kwargs, self.llm_config, self.raise_error_on_callback))
                self.ctx.run_init_node = False
                self.ctx.runtime_env = {"env_vars": {"A": "1"}}

            async def on_after_node_init(self) -> None:
                calls.append("after")

            def on_before_download_model_files_distributed(self) -> None:
                self.ctx.custom_data["there"] = True

        given = theirs.CallbackConfig(Mine, {"my_param": 1}, raise_error_on_callback=True)
        config = LLMConfig("m", "org/name", callback_config=given)
        output = asyncio.run(initialize_node(config))
        assert calls == [({"my_param": 1}, config, True), "after"]
        assert output.runtime_env == {"env_vars": {"A": "1"}}
        assert output.custom_data == {"there": True}

    def test_without_a_hook_of_its_own(self) -> None:
        theirs = pytest.importorskip("ray.llm._internal.common.callbacks.base")
        assert hooks_of(theirs.CallbackBase) == ()
