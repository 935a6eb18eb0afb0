from __future__ import annotations

import functools
from typing import Any

import pytest

from ray_serve_cai.callbacks import (
    TABLE,
    CallbackBase,
    CallbackCtx,
    NodeInitializationCallback,
    Point,
    RayServeLLMCallback,
)
from ray_serve_cai.callbacks.hooks import HOOKS, POINT_OF, ROWS, SKIPPING, TEARDOWN, hooks_of

ORDER = (
    "on_pre_placement_group",
    "on_before_node_init",
    "on_before_init",
    "on_pre_initialization",
    "on_post_placement_group",
    "on_before_download",
    "on_pre_download",
    "on_before_download_model_files_distributed",
    "on_after_node_init",
    "on_post_download",
    "on_pre_engine_init",
    "on_post_engine_init",
    "on_after_init",
    "on_post_initialization",
    "on_ready",
    "on_failure",
    "on_drain",
    "on_shutdown",
)


def test_order_of_the_table() -> None:
    assert HOOKS == ORDER
    assert [row.point for row in TABLE] == list(Point)
    assert set(ROWS) == set(Point)


def test_every_hook_of_the_dialects_has_a_point() -> None:
    for dialect in (CallbackBase, NodeInitializationCallback, RayServeLLMCallback):
        named = {name for name in vars(dialect) if name.startswith("on_")}
        assert named
        assert named <= set(POINT_OF)


def test_where_the_points_run() -> None:
    elsewhere = {row.point: row.where for row in TABLE if row.where != "replica"}
    assert elsewhere == {
        Point.BEFORE_PLACEMENT: "deploying side",
        Point.ON_EACH_NODE: "every node of the replica",
    }


def test_whose_false_means_something() -> None:
    assert {
        "on_before_init",
        "on_pre_initialization",
        "on_pre_placement_group",
        "on_pre_download",
    } == SKIPPING


def test_teardown() -> None:
    assert TEARDOWN == (Point.FAILED, Point.DRAINING, Point.SHUT_DOWN)


def hook(*_: Any) -> None: ...


class Parent:
    def on_ready(self) -> None: ...


class Child(Parent):
    def on_drain(self) -> None: ...


class Silenced(Child):
    on_ready = None


class OfTheBase(CallbackBase):
    def on_ready(self) -> None: ...


class OfAProtocol(NodeInitializationCallback):
    def on_pre_download(self, ctx: CallbackCtx) -> None: ...


class OfAll(OfTheBase, OfAProtocol): ...


class Partial:
    on_ready = functools.partialmethod(hook, 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Parent, ("on_ready",)),
        (Child, ("on_ready", "on_drain")),
        (Silenced, ("on_drain",)),
        (CallbackBase, ()),
        (OfTheBase, ("on_ready",)),
        (OfAProtocol, ("on_pre_download",)),
        (OfAll, ("on_pre_download", "on_ready")),
        (NodeInitializationCallback, ()),
        (RayServeLLMCallback, ()),
        (Partial, ("on_ready",)),
        (object, ()),
    ],
)
def test_hooks_of_a_class(kind: type, expected: tuple[str, ...]) -> None:
    assert hooks_of(kind) == expected


def test_hooks_of_an_instance() -> None:
    instance = Parent()
    assert hooks_of(instance) == ("on_ready",)
    instance.on_shutdown = functools.partial(hook, 1)  # type: ignore[attr-defined]
    assert hooks_of(instance) == ("on_ready", "on_shutdown")


def test_hooks_of_an_instance_with_slots() -> None:
    class Slim:
        __slots__ = ()

        def on_ready(self) -> None: ...

    assert hooks_of(Slim()) == ("on_ready",)
