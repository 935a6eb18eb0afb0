"""The runner: which hooks run, in which order, and with what."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from made_up import coroutine, one_hook, recorder, run, runner

from ray_serve_cai.callbacks import CallbackBase, CallbackCtx, Point, Runner
from ray_serve_cai.callbacks.hooks import HOOKS
from ray_serve_cai.errors import HookError


class TestOrder:
    def test_one_class_with_every_hook(self) -> None:
        calls: list[str] = []
        run(runner(recorder("", calls)), *Point, error=ValueError("x"))
        assert calls == list(HOOKS)

    def test_a_list_in_order_and_its_teardown_in_reverse(self) -> None:
        calls: list[str] = []
        it = runner(recorder("1.", calls), recorder("2.", calls))
        run(it, Point.READY, Point.FAILED, Point.DRAINING, Point.SHUT_DOWN)
        pairs = [("1.", "2.", "on_ready")]
        pairs += [("2.", "1.", hook) for hook in ("on_failure", "on_drain", "on_shutdown")]
        assert calls == [tag + hook for *tags, hook in pairs for tag in tags]

    def test_all_hooks_of_one_callback_before_those_of_the_next(self) -> None:
        calls: list[str] = []
        run(runner(recorder("1.", calls), recorder("2.", calls)), Point.BEFORE_DOWNLOAD)
        hooks = ("on_before_download", "on_pre_download")
        assert calls == [f"{tag}{hook}" for tag in ("1.", "2.") for hook in hooks]

    def test_constructors_run_once_and_at_the_first_point(self) -> None:
        built: list[int] = []
        it = runner(one_hook("on_ready", lambda self: None, __init__=lambda _: built.append(1)))
        assert built == []
        run(it, Point.READY, Point.SHUT_DOWN)
        assert built == [1]


class TestFalse:
    @pytest.mark.parametrize(
        ("hook", "point"),
        [
            ("on_pre_placement_group", Point.BEFORE_PLACEMENT),
            ("on_before_init", Point.BEFORE_ANYTHING),
            ("on_pre_initialization", Point.BEFORE_ANYTHING),
            ("on_pre_download", Point.BEFORE_DOWNLOAD),
        ],
    )
    def test_skips(self, hook: str, point: Point) -> None:
        assert run(runner(one_hook(hook, lambda self: False)), point) == [False]

    @pytest.mark.parametrize("value", [None, 0, "", [], (), 0.0, True, object()])
    def test_only_false_does(self, value: object) -> None:
        kind = one_hook("on_pre_download", lambda self, ctx: value)
        assert run(runner(kind), Point.BEFORE_DOWNLOAD) == [True]

    @pytest.mark.parametrize(
        ("hook", "point"),
        [
            ("on_before_node_init", Point.BEFORE_ANYTHING),
            ("on_before_download", Point.BEFORE_DOWNLOAD),
            ("on_before_download_model_files_distributed", Point.ON_EACH_NODE),
            ("on_pre_engine_init", Point.BEFORE_ENGINE),
        ],
    )
    def test_of_other_hooks_means_nothing(self, hook: str, point: Point) -> None:
        assert run(runner(one_hook(hook, lambda self: False)), point) == [True]

    def test_does_not_stop_the_other_callbacks(self) -> None:
        calls: list[str] = []
        skipping = one_hook("on_pre_download", lambda self: False)
        assert run(runner(skipping, recorder("", calls)), Point.BEFORE_DOWNLOAD) == [False]
        assert calls == ["on_before_download", "on_pre_download"]


class TestArguments:
    @pytest.mark.parametrize(
        "hook",
        [
            lambda self, ctx: ctx,
            lambda self, context=None: context,
            lambda self, *args: args[0],
            lambda self, anything: anything,
            staticmethod(lambda ctx: ctx),
        ],
    )
    def test_the_context(self, hook: Any) -> None:
        it = runner(one_hook("on_ready", hook))
        assert returned(it, "on_ready") is it.ctx

    def test_nothing(self) -> None:
        assert returned(runner(one_hook("on_ready", lambda self: "ran")), "on_ready") == "ran"

    def test_the_context_of_the_base_class(self) -> None:
        class Mine(CallbackBase):
            def on_ready(self) -> object:
                return self.ctx

        it = runner(Mine)
        assert returned(it, "on_ready") is it.ctx

    @pytest.mark.parametrize(
        ("hook", "expected"),
        [
            (lambda self: "nothing", "nothing"),
            (lambda self, error: error, "E"),
            (lambda self, exc: exc, "E"),
            (lambda self, error=None: error, "E"),
            (lambda self, ctx: ctx, "C"),
            (lambda self, ctx, error: (ctx, error), ("C", "E")),
            (lambda self, error, ctx: (error, ctx), ("E", "C")),
            (lambda self, ctx, error=None: (ctx, error), ("C", "E")),
            (lambda self, error, verbose=False: (error, verbose), ("E", False)),
            (lambda self, *args: args, ("E",)),
        ],
    )
    def test_of_on_failure(self, hook: Any, expected: object) -> None:
        it = runner(one_hook("on_failure", hook))
        error = ValueError("x")
        names = {id(it.ctx): "C", id(error): "E"}
        got = returned(it, "on_failure", error)
        if isinstance(got, tuple):
            assert tuple(names.get(id(each), each) for each in got) == expected
        else:
            assert names.get(id(got), got) == expected

    def test_more_than_there_is(self) -> None:
        kind = one_hook("on_ready", lambda self, ctx, more: None)
        with pytest.raises(HookError, match="missing 1 required positional argument: 'more'"):
            run(runner(kind), Point.READY)


def returned(it: Runner, hook: str, error: BaseException | None = None) -> Any:
    return asyncio.run(it.run_hook(it._callbacks[0], hook, error))


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args)


class Awaiting:
    def __init__(self, ctx: CallbackCtx) -> None:
        self.ctx = ctx

    def __await__(self) -> Iterator[Any]:
        yield from asyncio.sleep(0).__await__()
        self.ctx.custom_data["ran"] = True


def task(self: object, ctx: CallbackCtx) -> Awaitable[Any]:
    return asyncio.ensure_future(coroutine(self, ctx))


class TestAsync:
    @pytest.mark.parametrize(
        "hook",
        [
            coroutine,
            wrapped(coroutine),
            bare(coroutine),
            functools.partialmethod(coroutine),
            staticmethod(functools.partial(coroutine, None)),
            lambda self, ctx: Awaiting(ctx),
            task,
        ],
        ids=["async", "wraps", "bare", "partialmethod", "partial", "awaitable", "task"],
    )
    def test_is_awaited(self, hook: Any) -> None:
        it = runner(one_hook("on_ready", hook))
        run(it, Point.READY)
        assert it.ctx.custom_data == {"ran": True}

    def test_hooks_share_a_loop_and_a_thread(self) -> None:
        seen = set()

        async def note(self: object) -> None:
            seen.add((id(asyncio.get_running_loop()), threading.get_ident()))

        def note_thread(self: object) -> None:
            seen.add((id(asyncio.get_event_loop()), threading.get_ident()))

        kind = one_hook("on_ready", note, on_drain=note, on_shutdown=note_thread)
        run(runner(kind), Point.READY, Point.DRAINING, Point.SHUT_DOWN)
        assert len(seen) == 1
        assert threading.get_ident() not in {thread for _, thread in seen}
