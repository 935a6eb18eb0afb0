"""Whether an engine's methods take what they will be given.

An abstract base class compares names only: `start(self)` would pass, and fail with the GPUs held.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ray_serve_cai.engines.base import OPTIONS, LLMEngine

_METHODS = (
    *("from_args", "listen", "start", "generate", "embed", "abort"),
    *("health", "probe", "load", "drain", "cleanup"),
)


def signature_faults(kind: object) -> list[str]:
    """What is wrong with the class as an engine; empty when nothing is."""
    if not (isinstance(kind, type) and issubclass(kind, LLMEngine)):
        return ["it is not a subclass of LLMEngine"]
    missing = sorted(kind.__abstractmethods__)
    if missing:
        return [f"{kind.__name__} has no {', '.join(missing)}"]
    unknown = sorted(set(kind.options) - OPTIONS)
    if unknown:
        return [f'{kind.__name__}.options: a request has no option "{unknown[0]}"']
    return [fault for name in _METHODS for fault in _faults(kind, name)]


def _faults(kind: type[LLMEngine], name: str) -> Iterator[str]:
    ours = getattr(LLMEngine, name)
    theirs = inspect.getattr_static(kind, name)
    if name == "from_args" and not isinstance(theirs, (classmethod, staticmethod)):
        yield f"{kind.__name__}.from_args must be a class method"
        return
    method = getattr(kind, name)
    wanted = list(inspect.signature(ours).parameters.values())
    try:
        # By position, as they are called; the names are the engine's own.
        inspect.signature(method).bind(*[object()] * len(wanted))
    except TypeError:
        given = ", ".join(parameter.name for parameter in wanted)
        yield f"{kind.__name__}.{name} must take ({given})"
        return
    if _is_async(ours) and not _is_async(method):
        yield f"{kind.__name__}.{name} must be a coroutine (async def)"
    if name == "generate" and inspect.iscoroutinefunction(method):
        yield f"{kind.__name__}.generate must be an async generator: it has no yield"


def _is_async(method: object) -> bool:
    return inspect.iscoroutinefunction(method)
