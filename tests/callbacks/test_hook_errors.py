"""Hooks that raise, block, hang or leave nonsense, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from made_up import coroutine, logging_runner, one_hook, raising, recorder, run, runner

from ray_serve_cai.callbacks import CallbackCtx, Point
from ray_serve_cai.errors import HookError


def raising_later(error: BaseException) -> Callable[..., Any]:
    async def raise_it(self: object) -> None:
        await asyncio.sleep(0)
        raise error

    return raise_it


def test_says_hook_class_node_model_and_keeps_the_cause() -> None:
    cause = ValueError("boom")
    kind = one_hook("on_ready", raising(cause), __module__="their.code")
    with pytest.raises(HookError) as caught:
        run(runner(kind), Point.READY)
    assert caught.value.message == (
        'on_ready of their.code.Mine failed on node n1 for model "m": ValueError: boom'
    )
    assert caught.value.code == "CAI-CALLBACK-001"
    assert caught.value.__cause__ is cause


def test_stops_the_hooks_that_follow() -> None:
    calls: list[str] = []
    kind = one_hook("on_ready", raising(ValueError("boom")))
    with pytest.raises(HookError):
        run(runner(kind, recorder("", calls)), Point.READY)
    assert calls == []


def test_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    kind = one_hook("on_ready", raising(ValueError("boom")))
    assert run(logging_runner(kind, recorder("", calls)), Point.READY) == [True]
    assert calls == ["on_ready"]
    assert 'on_ready of made_up.Mine failed on node n1 for model "m"' in caplog.text
    assert "Traceback" in caplog.text
    assert "in raise_it" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(1),
        StopAsyncIteration(),
        GeneratorExit(),
        BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("x")]),
        ExceptionGroup("several", [ValueError("x")]),
        type("Own", (BaseException,), {})("x"),
        TimeoutError("its own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised(error: BaseException, asynchronous: bool) -> None:
    hook = raising_later(error) if asynchronous else raising(error)
    it = runner(one_hook("on_ready", hook, on_drain=coroutine))
    with pytest.raises(HookError) as caught:
        run(it, Point.READY)
    cause = caught.value.__cause__
    assert isinstance(cause, Exception)
    run(it, Point.DRAINING)
    assert it.ctx.custom_data == {"ran": True}


def test_an_error_without_a_message() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    kind = one_hook("on_ready", raising(Mute()))
    with pytest.raises(HookError, match=r"Mute \(no message"):
        run(runner(kind), Point.READY)


@pytest.mark.parametrize("value", ["text", 3, property(lambda self: 1 / 0)])
def test_hooks_that_are_none(value: object) -> None:
    with pytest.raises(HookError, match="on_ready of"):
        run(runner(one_hook("on_ready", value)), Point.READY)


def test_of_the_teardown_stop_nobody(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    bad = one_hook("on_shutdown", raising(SystemExit(1)), on_failure="no function")
    it = runner(recorder("1.", calls), bad, recorder("3.", calls))
    run(it, Point.FAILED, Point.SHUT_DOWN)
    assert calls == ["3.on_failure", "1.on_failure", "3.on_shutdown", "1.on_shutdown"]
    assert "on_shutdown of made_up.Mine failed" in caplog.text


def test_a_constructor_that_raises() -> None:
    kind = one_hook("on_ready", lambda self: None, __init__=raising(OSError("no disk")))
    with pytest.raises(HookError, match=r"__init__ of made_up.Mine failed .*: OSError: no disk"):
        run(runner(kind), Point.READY)


def test_a_constructor_that_raises_with_log() -> None:
    """The callback is left out, and not built again for each point."""
    calls: list[str] = []
    broken = one_hook("on_ready", lambda self: calls.append("broken"), __init__=raising(OSError()))
    it = logging_runner(broken, recorder("", calls))
    assert run(it, Point.READY, Point.SHUT_DOWN) == [True, True]
    assert calls == ["on_ready", "on_shutdown"]


def test_a_class_that_is_not_there() -> None:
    it = runner("json.nowhere.Class")
    with pytest.raises(HookError, match=r'__init__ of json.nowhere.Class .*"json" has no'):
        run(it, Point.READY)


WRONG = {
    "extra_init_kwargs": [None, 3, [("a", 1)], {1: 2}],
    "custom_data": [None, "text", []],
    "run_init_node": [None, 0, "no"],
    "runtime_env": [3, [], {1: 2}, {"pip": ["x"]}, {"env_vars": {"A": 1}}, {"env_vars": []}],
    "local_node_download_model": [3, False, {}],
    "worker_node_download_model": [3, ["NONE"], 1.5],
}
CASES = [(field, value) for field, values in WRONG.items() for value in values]


def setting(field: str, value: object) -> type:
    return one_hook("on_ready", lambda self, ctx: setattr(ctx, field, value))


@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_field_of_a_wrong_type(field: str, value: object) -> None:
    it = runner(setting(field, value))
    with pytest.raises(HookError, match=rf"on_ready of made_up.Mine .*: TypeError: ctx\.{field}"):
        run(it, Point.READY)


@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_field_of_a_wrong_type_is_put_back(field: str, value: object) -> None:
    """Otherwise the hooks that follow would be blamed, and the engine get it."""
    calls: list[str] = []
    it = logging_runner(setting(field, value), recorder("", calls))
    before = getattr(it.ctx, field)
    run(it, Point.READY, Point.DRAINING)
    assert getattr(it.ctx, field) == before
    assert calls == ["on_ready", "on_drain"]


@pytest.mark.parametrize(
    "change",
    [
        lambda ctx: ctx.extra_init_kwargs.update({1: 2}),
        lambda ctx: ctx.runtime_env.update(pip=["x"]),
        lambda ctx: ctx.runtime_env["env_vars"].update(A=1),
        lambda ctx: delattr(ctx, "custom_data"),
    ],
)
def test_what_is_changed_in_place_is_put_back(change: Callable[[CallbackCtx], None]) -> None:
    it = logging_runner(one_hook("on_ready", lambda self, ctx: change(ctx)))
    it.ctx.runtime_env = {"env_vars": {"A": "1"}}
    run(it, Point.READY)
    assert it.ctx == CallbackCtx(runtime_env={"env_vars": {"A": "1"}})


def test_a_hook_that_raises_and_leaves_nonsense() -> None:
    def hook(self: object, ctx: CallbackCtx) -> None:
        ctx.custom_data = None  # type: ignore[assignment]
        raise ValueError("boom")

    it = runner(one_hook("on_ready", hook))
    with pytest.raises(HookError, match="boom"):
        run(it, Point.READY)
    assert it.ctx == CallbackCtx()


@pytest.mark.parametrize("returned", [object(), 7, "text", {"a": 1}, NotImplemented, int])
def test_nonsense_returned(returned: object) -> None:
    assert run(runner(one_hook("on_ready", lambda self: returned)), Point.READY) == [True]


def test_who_is_about_to_run_is_announced() -> None:
    said: list[tuple[str, str]] = []
    kind = one_hook("on_ready", raising(ValueError()))
    it = runner(kind, announce=lambda hook, name: said.append((hook, name)))
    with pytest.raises(HookError):
        run(it, Point.READY)
    assert said == [("__init__", "made_up.Mine"), ("", ""), ("on_ready", "made_up.Mine"), ("", "")]
