"""What code around engines may rely on: an engine as OpenAI's routes, and how its configuration
and its deployment are made. Classes need not inherit from these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LLMEngineProtocol(Protocol):
    """A started engine that takes OpenAI's requests as dicts and gives whole replies as dicts.

    `engines.adapter.EngineAdapter` makes any `LLMEngine` one.
    """

    @property
    def engine_type(self) -> str:
        """The name in `engine.type`, such as `vllm`."""

    @property
    def model_name(self) -> str:
        """The name that clients send as `model`."""

    async def completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply of `/v1/completions`; raises `EngineError` (CAI-ENGINE-003) for a refusal."""

    async def chat_completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply of `/v1/chat/completions`; raises as `completion`."""

    async def list_models(self) -> dict[str, Any]:
        """The reply of `/v1/models`."""

    async def health_check(self) -> dict[str, Any]:
        """`status`: `healthy` or `unhealthy`, the latter with a `message`."""


@runtime_checkable
class ConfigBuilderProtocol(Protocol):
    """Turns the flat configuration of `engines.config` into the engine's own arguments.

    Made as `cls(engine)`, with the engine's name. No method has a side effect.
    """

    def build_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `engine.args` of the spec; raises as `validate_config`."""

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise a `CaiError` for a configuration that cannot be right."""

    def get_default_config(self) -> dict[str, Any]:
        """What holds where a configuration says nothing."""


@runtime_checkable
class DeploymentFactoryProtocol(Protocol):
    """Turns a configuration into the model that is deployed. Made as `cls(engine)`."""

    def create_deployment(
        self, config: Mapping[str, Any], engine_config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The `kind: Model` document: `engine_config` is what the builder made, and the document
        says what a replica reserves."""
