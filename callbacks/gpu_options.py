"""Give the engine the arguments that suit a machine's GPUs, whatever the model's spec says.

    callbacks:
      - class: callbacks.gpu_options.GpuOptions
        kwargs: {gpu_memory_utilization: 0.95, max_num_batched_tokens: 8192}

`tensor_parallel_size` must fit the GPUs that the replica reserves.
"""

from __future__ import annotations

from ray_serve_cai.callbacks import CallbackCtx


class GpuOptions:
    """Sets those of vLLM's arguments that are given; they win over `engine.args`."""

    def __init__(
        self,
        gpu_memory_utilization: float = 0.95,
        max_num_batched_tokens: int = 8192,
        tensor_parallel_size: int | None = None,
    ) -> None:
        self.options: dict[str, float] = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_batched_tokens": max_num_batched_tokens,
        }
        if tensor_parallel_size is not None:
            self.options["tensor_parallel_size"] = tensor_parallel_size

    def on_pre_engine_init(self, ctx: CallbackCtx) -> None:
        ctx.extra_init_kwargs.update(self.options)
