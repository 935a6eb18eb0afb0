"""Small callbacks that run without Ray and without an engine.

`python -m ray_serve_cai.callbacks.examples` prepares a node with each of them, on an empty folder
as the model, and prints what it changed.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks import (
    CallbackConfig,
    CallbackCtx,
    LLMConfig,
    NodeInitializationContext,
    Placement,
    initialize_node,
)


class CustomDownloadCallback:
    """Asks for the whole model on all nodes."""

    def on_pre_download(self, ctx: NodeInitializationContext) -> None:
        ctx.local_node_download_model = "MODEL_AND_TOKENIZER"
        ctx.worker_node_download_model = "MODEL_AND_TOKENIZER"


class MetricsCallback:
    """Keeps times from hook to hook, in seconds, and writes them at the end."""

    def __init__(self, output_path: str) -> None:
        self.output_path = Path(output_path)
        self.start_time = 0.0
        self.metrics: dict[str, float] = {}

    def on_pre_initialization(self, ctx: NodeInitializationContext) -> None:
        self.start_time = time.monotonic()

    def on_post_download(self, ctx: NodeInitializationContext) -> None:
        self.metrics["download_time"] = time.monotonic() - self.start_time

    def on_post_initialization(self, ctx: NodeInitializationContext) -> None:
        self.metrics["total_time"] = time.monotonic() - self.start_time
        self.output_path.write_text(json.dumps(self.metrics))
        ctx.custom_data["metrics"] = self.metrics


class CustomPlacementGroupCallback:
    """Reserves one bundle with all the GPUs."""

    def __init__(self, num_gpus: int = 4) -> None:
        self.num_gpus = num_gpus

    def on_pre_placement_group(self, ctx: NodeInitializationContext) -> bool:
        ctx.placement_group = {"bundles": [{"GPU": self.num_gpus}], "strategy": "STRICT_PACK"}
        return False


class GPUOptimizationCallback:
    """Adds arguments for the engine."""

    def on_pre_engine_init(self, ctx: NodeInitializationContext) -> None:
        ctx.extra_init_kwargs.update(
            {
                "gpu_memory_utilization": 0.95,
                "tensor_parallel_size": 4,
                "max_num_batched_tokens": 8192,
            }
        )


class FullCustomInitializationCallback:
    """Sets everything by itself; False leaves out the download and the hooks around it."""

    def __init__(self, model_folder: str) -> None:
        self.model_folder = model_folder

    def on_pre_initialization(self, ctx: NodeInitializationContext) -> bool:
        ctx.runtime_env = {"env_vars": {"CUSTOM": "true"}}
        ctx.extra_init_kwargs = {"max_model_len": 1024}
        ctx.download_result = self.model_folder
        return False


@dataclass(frozen=True)
class Example:
    """A callback and its arguments; `{folder}` in them is a folder to write to."""

    name: str
    kind: type[Any]
    kwargs: Mapping[str, Any]


EXAMPLES = (
    Example("custom download", CustomDownloadCallback, {}),
    Example("metrics", MetricsCallback, {"output_path": "{folder}/metrics.json"}),
    Example("custom placement", CustomPlacementGroupCallback, {"num_gpus": 8}),
    Example("GPU options", GPUOptimizationCallback, {}),
    Example(
        "full custom initialisation",
        FullCustomInitializationCallback,
        {"model_folder": "{folder}"},
    ),
)


class _Witness:
    """Runs last and keeps the context."""

    ctx: CallbackCtx

    def on_post_initialization(self, ctx: CallbackCtx) -> None:
        self.ctx = ctx


def run_example(example: Example, model: Path, folder: Path) -> dict[str, tuple[Any, Any]]:
    """The context's fields that the example changed: what they are without it, and with it.

    `folder` is where the example may write.
    """
    kwargs = {
        name: value.format(folder=folder) if isinstance(value, str) else value
        for name, value in example.kwargs.items()
    }
    before = _prepare(model)
    after = _prepare(model, CallbackConfig(example.kind, kwargs))
    return {
        name: (_shown(was), _shown(now))
        for name in (it.name for it in fields(CallbackCtx) if it.name != "llm_config")
        if (was := getattr(before, name)) != (now := getattr(after, name))
    }


def main() -> None:
    """Run all examples."""
    with tempfile.TemporaryDirectory(prefix="cai-examples-") as scratch:
        model, folder = Path(scratch, "model"), Path(scratch, "written")
        model.mkdir()
        folder.mkdir()
        for example in EXAMPLES:
            print(example.name)
            for field, (before, after) in run_example(example, model, folder).items():
                print(f"  {field}: {json.dumps(before)} -> {json.dumps(after)}")
            for file in sorted(folder.iterdir()):
                print(f"  wrote {file.name}: {file.read_text()}")
                file.unlink()


def _prepare(model: Path, *callbacks: CallbackConfig) -> CallbackCtx:
    config = LLMConfig("example", str(model), callback=[*callbacks, CallbackConfig(_Witness)])
    asyncio.run(initialize_node(config))
    witness = config.get_or_create_callbacks()[-1]
    assert isinstance(witness, _Witness)
    return witness.ctx


def _shown(value: Any) -> Any:
    """As JSON data."""
    if isinstance(value, Placement):
        return value.data()
    return getattr(value, "folder", value)


if __name__ == "__main__":
    main()
