"""The hook table: every point of a replica's life, in order, and the hooks that run there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Point(StrEnum):
    """A moment at which hooks run."""

    BEFORE_PLACEMENT = "before placement"
    BEFORE_ANYTHING = "before anything"
    AFTER_PLACEMENT = "after placement"
    BEFORE_DOWNLOAD = "before download"
    ON_EACH_NODE = "before download, on each node"
    AFTER_DOWNLOAD = "after download"
    BEFORE_ENGINE = "before engine start"
    AFTER_ENGINE = "after engine start"
    ALL_DONE = "all done"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"
    SHUT_DOWN = "shut down"


@dataclass(frozen=True)
class Row:
    """One point. `where`: which process runs it. `hooks`: their names, in the order they run.

    `false_skips`: for each hook whose False means something, what it skips.
    """

    point: Point
    where: str
    hooks: tuple[str, ...]
    false_skips: tuple[tuple[str, str], ...] = ()


DEPLOYING, REPLICA, NODES = "deploying side", "replica", "every node of the replica"

# The hooks of three dialects meet here: CallbackBase (`…_node_init`, `…_distributed`),
# RayServeLLMCallback (`on_before_init`, `on_before_download`, `on_after_init`) and
# NodeInitializationCallback (`on_pre_…`, `on_post_…`).
TABLE: tuple[Row, ...] = (
    Row(
        Point.BEFORE_PLACEMENT,
        DEPLOYING,
        ("on_pre_placement_group",),
        (("on_pre_placement_group", "the default placement"),),
    ),
    Row(
        Point.BEFORE_ANYTHING,
        REPLICA,
        ("on_before_node_init", "on_before_init", "on_pre_initialization"),
        (
            ("on_before_init", "the download and the hooks around it"),
            ("on_pre_initialization", "the download and the hooks around it"),
        ),
    ),
    Row(Point.AFTER_PLACEMENT, REPLICA, ("on_post_placement_group",)),
    Row(
        Point.BEFORE_DOWNLOAD,
        REPLICA,
        ("on_before_download", "on_pre_download"),
        (
            (
                "on_pre_download",
                "the download, on_before_download_model_files_distributed included",
            ),
        ),
    ),
    Row(Point.ON_EACH_NODE, NODES, ("on_before_download_model_files_distributed",)),
    Row(Point.AFTER_DOWNLOAD, REPLICA, ("on_after_node_init", "on_post_download")),
    Row(Point.BEFORE_ENGINE, REPLICA, ("on_pre_engine_init",)),
    Row(Point.AFTER_ENGINE, REPLICA, ("on_post_engine_init",)),
    Row(Point.ALL_DONE, REPLICA, ("on_after_init", "on_post_initialization")),
    Row(Point.READY, REPLICA, ("on_ready",)),
    Row(Point.FAILED, REPLICA, ("on_failure",)),
    Row(Point.DRAINING, REPLICA, ("on_drain",)),
    Row(Point.SHUT_DOWN, REPLICA, ("on_shutdown",)),
)

# Of several callbacks the last one built is the first one torn down.
TEARDOWN = (Point.FAILED, Point.DRAINING, Point.SHUT_DOWN)
ROWS: dict[Point, Row] = {row.point: row for row in TABLE}
HOOKS: tuple[str, ...] = tuple(hook for row in TABLE for hook in row.hooks)
POINT_OF: dict[str, Point] = {hook: row.point for row in TABLE for hook in row.hooks}
SKIPPING: frozenset[str] = frozenset(hook for row in TABLE for hook, _ in row.false_skips)


def hooks_of(callback: object) -> tuple[str, ...]:
    """The hooks that a class or instance defines, in the order of the table.

    Those that it only inherits from a base of the `CallbackBase` family, where they do nothing,
    do not count.
    """
    kind = callback if isinstance(callback, type) else type(callback)
    return tuple(hook for hook in HOOKS if _defines(kind, callback, hook))


def _defines(kind: type, callback: object, hook: str) -> bool:
    if not isinstance(callback, type) and hook in getattr(callback, "__dict__", {}):
        return True
    for base in kind.__mro__:
        if hook in base.__dict__:
            return not is_family_base(base) and base.__dict__[hook] is not None
    return False


def is_family_base(kind: type) -> bool:
    """Whether this is the `CallbackBase` itself, ours or Ray's, or a protocol."""
    return kind.__name__ == "CallbackBase" or bool(kind.__dict__.get("_is_protocol"))
