"""From what a spec says of a callback to an instance of its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ray_serve_cai import dotted
from ray_serve_cai.callbacks.context import CallbackCtx, adopt
from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec.masking import is_secret_name, scrub
from ray_serve_cai.spec.trees import leaves

DEFAULT_TIMEOUT = 300.0
OnError = Literal["fail", "log"]
# Set by `construct` where the class is of the CallbackBase family, as Ray Serve LLM does.
GIVEN = ("llm_config", "raise_error_on_callback")


@dataclass(frozen=True)
class CallbackSpec:
    """One callback as plain data, which is all that crosses from process to process.

    `target` is a dotted path, or a class within one process. `timeout` is in seconds for each
    hook; None is no limit. `secrets` are values that no message may show.
    """

    target: str | type[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    on_error: OnError = "fail"
    timeout: float | None = DEFAULT_TIMEOUT
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """The class's dotted path."""
        if isinstance(self.target, str):
            return self.target
        return f"{self.target.__module__}.{self.target.__qualname__}"

    def scrub(self, text: str) -> str:
        """`text` without the secrets, those `kwargs` included that are named like one."""
        return scrub(text, [*self.secrets, *_secrets(self.kwargs)])

    def to_json(self) -> dict[str, Any]:
        """Raises `SpecError` (CAI-SPEC-010) for a class that no other process could import."""
        return {
            "target": self.name if isinstance(self.target, str) else importable_path(self.target),
            "kwargs": dict(self.kwargs),
            "on_error": self.on_error,
            "timeout": self.timeout,
            "secrets": list(self.secrets),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "secrets": tuple(data.get("secrets", ()))})


def resolve_class(path: str) -> type[Any]:
    """The class that a dotted path names; raises `SpecError` (CAI-SPEC-010)."""
    found = dotted.resolve(path)
    if not inspect.isclass(found):
        raise SpecError("CAI-SPEC-010", f'"{path}" is not a class')
    return found


def importable_path(kind: type[Any]) -> str:
    """The dotted path by which another process finds the class."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise SpecError(
            "CAI-SPEC-010",
            f'class "{kind.__qualname__}" of "{kind.__module__}" cannot be imported elsewhere',
            hint="Move it to the top level of a module, and name it by its dotted path.",
        )
    return path


def is_of_family(kind: type[Any]) -> bool:
    """Whether the class derives from a `CallbackBase`, ours or Ray's."""
    return any(base.__name__ == "CallbackBase" for base in kind.__mro__)


def constructor_of(spec: CallbackSpec, ctx: CallbackCtx) -> Callable[[], Any]:
    """What makes the instance; raises `SpecError` when there is no such class."""
    kind = resolve_class(spec.target) if isinstance(spec.target, str) else spec.target
    if not is_of_family(kind):
        return lambda: kind(**spec.kwargs)

    def build() -> Any:
        instance = kind(
            llm_config=ctx.llm_config,
            raise_error_on_callback=spec.on_error == "fail",
            **spec.kwargs,
        )
        # Of this replica, shared with the other callbacks; the constructor made one of its own,
        # and may have been given values for it (`ctx_kwargs`).
        adopt(ctx, instance.ctx)
        instance.ctx = ctx
        return instance

    return build


def _secrets(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for path, value in leaves(dict(kwargs)):
        if any(isinstance(part, str) and is_secret_name(part) for part in path):
            yield str(value)
