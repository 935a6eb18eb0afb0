"""The three dialects: a base class and two protocols. A callback needs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ray_serve_cai.callbacks.context import CallbackCtx


class CallbackBase:
    """Base for callbacks whose hooks take no argument and find everything on `self`.

    `self.ctx` is the replica's `CallbackCtx`, `self.kwargs` what the spec gave, `self.llm_config`
    the model. The constructor is that of the class of this name in Ray Serve LLM.
    """

    def __init__(
        self,
        llm_config: Any = None,
        raise_error_on_callback: bool = True,
        ctx_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.llm_config = llm_config
        self.raise_error_on_callback = raise_error_on_callback
        self.kwargs = kwargs
        self.ctx = CallbackCtx(**{"llm_config": llm_config, **(ctx_kwargs or {})})

    async def on_before_node_init(self) -> None:
        """Before anything else on the replica."""

    async def on_after_node_init(self) -> None:
        """After the model is there, before its engine starts."""

    def on_before_download_model_files_distributed(self) -> None:
        """On each node that holds a part of the model, before its files are downloaded there."""


@dataclass
class CallbackConfig:
    """A callback and its constructor's arguments, for `LLMConfig`.

    `callback_class` is a class or a dotted path. Without `raise_error_on_callback` a failing hook
    is logged and the deployment goes on.
    """

    callback_class: str | type[Any] = CallbackBase
    callback_kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    raise_error_on_callback: bool = True


@runtime_checkable
class RayServeLLMCallback(Protocol):
    """The dialect of three hooks. All are optional; `isinstance` is never the check."""

    def on_before_init(self, ctx: CallbackCtx) -> bool | None:
        """Before anything; False skips the download and the hooks around it."""

    def on_before_download(self, ctx: CallbackCtx) -> None:
        """Before the download; may change the download modes."""

    def on_after_init(self, ctx: CallbackCtx) -> None:
        """After the engine has started."""


@runtime_checkable
class NodeInitializationCallback(Protocol):
    """The dialect of eight hooks. All are optional; `isinstance` is never the check."""

    def on_pre_initialization(self, ctx: CallbackCtx) -> bool | None:
        """Before anything; False skips the download and the hooks around it."""

    def on_pre_download(self, ctx: CallbackCtx) -> bool | None:
        """Before the download; False skips it on every node."""

    def on_post_download(self, ctx: CallbackCtx) -> None:
        """After the download; `ctx.download_result` says what lies where."""

    def on_pre_placement_group(self, ctx: CallbackCtx) -> bool | None:
        """Before resources are held; False skips the default placement."""

    def on_post_placement_group(self, ctx: CallbackCtx) -> None:
        """After resources are held; `ctx.placement_group` shows them."""

    def on_pre_engine_init(self, ctx: CallbackCtx) -> None:
        """Before the engine starts; may change `ctx.extra_init_kwargs`."""

    def on_post_engine_init(self, ctx: CallbackCtx) -> None:
        """After the engine has started."""

    def on_post_initialization(self, ctx: CallbackCtx) -> None:
        """After everything."""
