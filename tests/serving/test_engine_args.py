"""What hooks may ask of the engine, against what its replica reserves."""

from __future__ import annotations

from typing import Any

import pytest

from ray_serve_cai.errors import HookError
from ray_serve_cai.serving.hooks import engine_args
from ray_serve_cai.serving.job import ReplicaJob


def job(engine: str, args: dict[str, Any], *gpus: float) -> ReplicaJob:
    return ReplicaJob(
        cluster="c",
        model="m",
        revision=1,
        source="s",
        engine=engine,
        engine_args=args,
        transport="grpc",
        env={},
        log_folder="/",
        placement={"bundles": [{"GPU": gpu} for gpu in gpus], "strategy": "PACK"},
    )


def test_more_gpus_than_are_reserved() -> None:
    with pytest.raises(HookError, match="is asked for 4 GPUs"):
        engine_args(job("vllm", {}, 2.0), {"tensor-parallel-size": "4"})


def test_bundles_that_ray_fills_count_together() -> None:
    asked = {"distributed_executor_backend": "ray"}
    found = engine_args(job("vllm", asked, 1.0, 1.0), {"tensor_parallel_size": 2})
    assert found["tensor_parallel_size"] == 2
    with pytest.raises(HookError, match="1 are reserved"):
        engine_args(job("vllm", {}, 1.0, 1.0), {"tensor_parallel_size": 2})


def test_ranks_for_data_are_sglangs_own_affair() -> None:
    args = {"tensor_parallel_size": 4, "data_parallel_size": 4, "enable_dp_attention": True}
    assert engine_args(job("sglang", args, 4.0), {}) == args
