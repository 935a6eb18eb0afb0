"""`LLMConfig`: a model and its callbacks in Python, as Ray Serve LLM writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray_serve_cai.callbacks.base import CallbackConfig
from ray_serve_cai.callbacks.build import CallbackSpec, OnError, constructor_of
from ray_serve_cai.callbacks.context import CallbackCtx, Placement
from ray_serve_cai.callbacks.runner import Loaded, load
from ray_serve_cai.errors import SpecError

CallbackLike = str | type[Any] | CallbackConfig | CallbackSpec | Mapping[str, Any]


class LLMConfig:
    """A model as hooks see it (`ctx.llm_config`) and as `initialize_node` takes it.

    Callbacks come by any of `callback_class` with `callback_kwargs`, `callback` and
    `callback_config`: each a class, a dotted path, a `CallbackConfig`, a mapping with its fields,
    or a list of these.
    """

    def __init__(
        self,
        model_id: str | None = None,
        model_source: str | None = None,
        *,
        model_loading_config: Mapping[str, Any] | None = None,
        engine_kwargs: Mapping[str, Any] | None = None,
        callback_class: CallbackLike | None = None,
        callback: CallbackLike | Iterable[CallbackLike] | None = None,
        callback_config: CallbackLike | Iterable[CallbackLike] | None = None,
        callback_kwargs: Mapping[str, Any] | None = None,
        placement_group_config: Mapping[str, Any] | None = None,
        deployment_config: Mapping[str, Any] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        lora_config: Mapping[str, Any] | None = None,
        accelerator_type: str | None = None,
        llm_engine: str = "vLLM",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        loading = dict(model_loading_config or {})
        self.model_id = model_id or loading.get("model_id")
        if not self.model_id:
            raise SpecError("CAI-SPEC-004", "LLMConfig needs model_id")
        self.model_source = model_source or loading.get("model_source") or self.model_id
        self.model_loading_config = loading or {
            "model_id": self.model_id,
            "model_source": self.model_source,
        }
        self.engine_kwargs = dict(engine_kwargs or {})
        self.placement_group_config = placement_group_config
        self.deployment_config = dict(deployment_config or {})
        self.runtime_env = dict(runtime_env or {})
        self.lora_config = lora_config
        self.accelerator_type = accelerator_type
        self.llm_engine = llm_engine
        # Of the store that `model_source` is in.
        self.storage_options = dict(storage_options or {})
        self.callback_class = callback_class
        self.callback_kwargs = dict(callback_kwargs or {})
        self.callbacks = tuple(_specs(callback_class, callback, callback_config, callback_kwargs))
        self._loaded: list[Loaded] | None = None

    def get_or_create_callback(self) -> Any:
        """This process's instance of the first callback; None when there is none."""
        return next(iter(self.get_or_create_callbacks()), None)

    def get_or_create_callbacks(self) -> list[Any]:
        """This process's instances, in order; built at the first call.

        Raises `SpecError` (CAI-SPEC-010) for a class that is not there, else what the constructor
        raises.
        """
        for each in self.loaded():
            if each.instance is None:
                each.instance = constructor_of(each.spec, CallbackCtx(llm_config=self))()
        return [each.instance for each in self.loaded()]

    def loaded(self) -> list[Loaded]:
        """The callbacks with the instances that there are by now."""
        if self._loaded is None:
            self._loaded = load(self.callbacks)
        return self._loaded

    def placement(self) -> Placement:
        """What a replica reserves by default: one bundle, unless the configuration names more."""
        given = self.placement_group_config
        if given:
            bundles = given.get("bundles") or [given.get("bundle_per_worker", {"CPU": 1})]
            return Placement(tuple(bundles), given.get("strategy", "PACK"))
        workers = int(self.engine_kwargs.get("tensor_parallel_size", 1))
        workers *= int(self.engine_kwargs.get("pipeline_parallel_size", 1))
        return Placement(({"CPU": 1, "GPU": workers},))

    def __getstate__(self) -> dict[str, Any]:
        # Instances stay in their process: each builds its own, so they may hold locks and files.
        return {**self.__dict__, "_loaded": None}


def _specs(
    callback_class: Any, callback: Any, callback_config: Any, kwargs: Mapping[str, Any] | None
) -> Iterable[CallbackSpec]:
    takers = [each for each in (callback_class, callback) if each is not None]
    if kwargs and not (len(takers) == 1 and isinstance(takers[0], (str, type))):
        raise SpecError("CAI-SPEC-004", "callback_kwargs needs one callback_class or callback")
    for source, arguments in (
        (callback_class, kwargs),
        (callback, kwargs),
        (callback_config, None),
    ):
        several = source if isinstance(source, (list, tuple)) else [source]
        yield from (_spec(each, arguments) for each in several if each is not None)


def _spec(given: Any, kwargs: Mapping[str, Any] | None) -> CallbackSpec:
    if isinstance(given, CallbackSpec):
        return given
    if isinstance(given, (str, type)):
        return CallbackSpec(given, dict(kwargs or {}))
    if isinstance(given, Mapping):
        try:
            given = CallbackConfig(**given)
        except TypeError as error:
            raise SpecError("CAI-SPEC-003", f"callback_config: {error}") from error
    # Ray's own class of this name has the same fields.
    if not isinstance(getattr(given, "callback_class", None), (str, type)):
        raise SpecError(
            "CAI-SPEC-004",
            "a callback is a class, a dotted path or a CallbackConfig, "
            f"not a {type(given).__name__}",
        )
    on_error: OnError = "fail" if given.raise_error_on_callback else "log"
    return CallbackSpec(given.callback_class, dict(given.callback_kwargs or {}), on_error)
