"""Runs the hooks of a replica's callbacks at each point, with their time-outs and errors."""

from __future__ import annotations

import contextlib
import inspect
import logging
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from ray_serve_cai.callbacks.build import CallbackSpec, constructor_of, is_of_family
from ray_serve_cai.callbacks.context import CallbackCtx, snapshot, wrong_field
from ray_serve_cai.callbacks.hooks import ROWS, SKIPPING, TEARDOWN, Point, hooks_of
from ray_serve_cai.callbacks.thread import HookThread
from ray_serve_cai.errors import HookError

log = logging.getLogger(__name__)

CONSTRUCTOR = "__init__"
# Whoever ends a replica does not wait as long as one who starts it.
TEARDOWN_SECONDS = 20.0


@dataclass
class Loaded:
    """A callback of this process. `instance` is None until the first point that needs it."""

    spec: CallbackSpec
    instance: Any = None
    broken: bool = False


class Runner:
    """The callbacks of one replica in one process; one instance of each.

    `announce(hook, class)` is told before each hook, so that somebody else can name the hook that
    killed this process; `announce_turn(point, index)` before each callback's turn in the teardown,
    so that somebody else can give the others theirs. `check(ctx)` says after each hook what is
    wrong with the context.
    """

    def __init__(
        self,
        callbacks: Sequence[Loaded],
        ctx: CallbackCtx,
        *,
        model: str,
        node: str,
        announce: Callable[[str, str], None] = lambda hook, name: None,
        announce_turn: Callable[[Point, int], None] = lambda point, index: None,
        check: Callable[[CallbackCtx], str | None] = wrong_field,
    ) -> None:
        self.ctx = ctx
        self._check = check
        self._callbacks = callbacks
        self._model, self._node = model, node
        self._announce, self._announce_turn = announce, announce_turn
        self._thread: HookThread | None = None

    async def run(
        self,
        point: Point,
        error: BaseException | None = None,
        turns: Collection[int] | None = None,
    ) -> bool:
        """Run the point's hooks; False when one of them skips the default that follows.

        Raises `HookError` at the first failure of a callback whose `on_error` is `fail`. At the
        points of the teardown nothing is raised and every callback has its turn, in reverse; with
        `turns`, only those callbacks have.
        """
        if point in TEARDOWN:
            for index in reversed(range(len(self._callbacks))):
                if turns is None or index in turns:
                    self._announce_turn(point, index)
                    with contextlib.suppress(HookError):
                        await self._run_one(self._callbacks[index], point, error)
            return True
        go_on = True
        for callback in self._callbacks:
            go_on &= await self._run_one(callback, point, error)
        return go_on

    async def run_hook(
        self,
        callback: Loaded,
        hook: str,
        error: BaseException | None = None,
        limit: float | None = None,
    ) -> Any:
        """What one hook of the callback returns; None when it does not define the hook.

        `limit`: seconds that it may take at most, whatever its own `timeout`.

        Raises `HookError`.
        """
        if callback.instance is None and not callback.broken:
            await self._construct(callback)
        if callback.instance is None or hook not in hooks_of(callback.instance):
            return None
        call = partial(_call, callback.instance, hook, self.ctx, error)
        return await self._guarded(callback, hook, call, limit)

    async def _run_one(self, callback: Loaded, point: Point, error: BaseException | None) -> bool:
        go_on = True
        for hook in ROWS[point].hooks:
            limit = TEARDOWN_SECONDS if point in TEARDOWN else None
            result = await self.run_hook(callback, hook, error, limit)
            # Only False says "skip": None is what most hooks return.
            go_on &= not (result is False and hook in SKIPPING)
        return go_on

    async def _construct(self, callback: Loaded) -> None:
        def build() -> Any:
            return constructor_of(callback.spec, self.ctx)()

        callback.broken = True
        callback.instance = await self._guarded(callback, CONSTRUCTOR, build)
        callback.broken = callback.instance is None

    async def _guarded(
        self,
        callback: Loaded,
        hook: str,
        call: Callable[[], Any],
        limit: float | None = None,
    ) -> Any:
        spec = callback.spec
        limits = [seconds for seconds in (spec.timeout, limit) if seconds is not None]
        before = snapshot(self.ctx)
        self._announce(hook, spec.name)
        if self._thread is None or self._thread.stuck:
            self._thread = HookThread()
        try:
            try:
                result = await self._thread.call(call, min(limits, default=None))
            finally:
                wrong = self._check(self.ctx)
                if wrong:
                    # The hooks that follow, and with `on_error: log` the deployment, go on with
                    # what was there before.
                    vars(self.ctx).update(before)
            if wrong:
                raise TypeError(wrong)
        except Exception as error:
            failure = HookError(
                "CAI-CALLBACK-001",
                f"{hook} of {spec.name} failed on node {self._node} for model "
                f'"{self._model}": {spec.scrub(said(error))}',
            )
            log.error("%s\n%s", failure, spec.scrub(traceback.format_exc()))
            if spec.on_error == "log":
                return None
            raise failure from error
        finally:
            self._announce("", "")
        return result


def load(specs: Sequence[CallbackSpec]) -> list[Loaded]:
    return [Loaded(spec) for spec in specs]


def said(error: BaseException) -> str:
    """Class and message, also of an exception whose message cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as second:  # noqa: BLE001 - the user's code
        return f"{type(error).__name__} (no message: its __str__ raised {type(second).__name__})"


def _call(instance: object, hook: str, ctx: CallbackCtx, error: BaseException | None) -> Any:
    method = getattr(instance, hook)
    return method(*_arguments(method, hook, instance, ctx, error))


def _arguments(
    method: Callable[..., Any],
    hook: str,
    instance: object,
    ctx: CallbackCtx,
    error: BaseException | None,
) -> tuple[Any, ...]:
    """What the hook takes: nothing, the context, or for `on_failure` the error, or both."""
    offered: list[Any] = [ctx] if error is None else [error]
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return tuple(offered)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not named:
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return tuple(offered) if takes_any and not is_of_family(type(instance)) else ()
    if error is None:
        return (ctx,)
    needed = list(takewhile(_is_offered, named)) or named[:1]
    return tuple(ctx if p.name in ("ctx", "context") else error for p in needed)


def _is_offered(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty or parameter.name in ("ctx", "context", "error")
