"""A replica's callbacks in one of its processes, and what their context means there."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks import CallbackCtx, LLMConfig, Point
from ray_serve_cai.callbacks.build import CallbackSpec
from ray_serve_cai.callbacks.context import DownloadMode, download_mode, env_vars, wrong_field
from ray_serve_cai.callbacks.node_init import folder_of
from ray_serve_cai.callbacks.runner import Runner, load
from ray_serve_cai.engines.vllm_args import check_args
from ray_serve_cai.errors import HookError, StorageError
from ray_serve_cai.plan.parallel import PIPELINE, SIZES, TENSOR, over_nodes, workers
from ray_serve_cai.serving.job import ReplicaJob, merged
from ray_serve_cai.storage.source import BUILT_IN_PREFIX, check_folder, fetch, local_folder

log = logging.getLogger(__name__)


class ReplicaRunner(Runner):
    """Hooks of a replica whose resources are held: what they set takes effect at once."""

    def __init__(
        self,
        job: ReplicaJob,
        node: str,
        announce: Callable[[str, str], None],
        announce_turn: Callable[[Point, int], None],
    ) -> None:
        specs = [CallbackSpec.from_json(each) for each in job.callbacks]
        ctx = CallbackCtx(
            llm_config=llm_config_of(
                job.model, job.source, job.engine_args, specs, job.storage_options
            ),
            placement_group=copy.deepcopy(job.placement),
            custom_data=copy.deepcopy(job.custom_data),
        )
        super().__init__(
            load(specs),
            ctx,
            model=job.model,
            node=node,
            announce=announce,
            announce_turn=announce_turn,
            check=self._fault,
        )
        self._held = job.placement

    async def run(
        self,
        point: Point,
        error: BaseException | None = None,
        turns: Collection[int] | None = None,
    ) -> bool:
        go_on = await super().run(point, error, turns)
        os.environ.update(env_vars(self.ctx))
        return go_on

    def _fault(self, ctx: CallbackCtx) -> str | None:
        if ctx.placement_group != self._held:
            return (
                "ctx.placement_group was set after resources were held; "
                "set it in on_pre_placement_group"
            )
        return wrong_field(ctx)


def llm_config_of(
    model: str,
    source: str,
    engine_args: Mapping[str, Any],
    callbacks: Sequence[CallbackSpec] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> LLMConfig:
    """The model as its hooks see it."""
    return LLMConfig(
        model,
        source,
        engine_kwargs=engine_args,
        callback=list(callbacks),
        storage_options=storage_options,
    )


def engine_args(job: ReplicaJob, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's arguments with those of the hooks over them.

    Raises `PlanError` (CAI-PLAN-002) for arguments that vLLM does not have, `HookError` for more
    GPUs than are reserved.
    """
    extra = {name: value for name, value in extra.items() if name != "model"}
    if job.engine == "vllm":
        check_args(extra, transport=job.transport)
    extra = {name.replace("-", "_"): value for name, value in extra.items()}
    kept = {k: v for k, v in job.engine_args.items() if k.replace("-", "_") not in extra}
    args = {**kept, **extra}
    # SGLang's ranks for data may be among those of its tensor.
    sizes = SIZES if job.engine == "vllm" else (TENSOR, PIPELINE)
    wanted, reserved = workers(args, sizes), _reserved_gpus(job)
    # On CPUs parallel workers need no GPU; what the spec itself asks for there is its affair.
    if wanted > (reserved or workers(job.engine_args, sizes)):
        raise HookError(
            "CAI-CALLBACK-001",
            f"the engine is asked for {wanted} GPUs ({' x '.join(sizes)}, with "
            f"ctx.extra_init_kwargs); {reserved} are reserved where it runs",
            hint="Raise resources.gpu in the spec, or the bundles in on_pre_placement_group.",
        )
    return args


def engine_folder(job: ReplicaJob, ctx: CallbackCtx) -> Path:
    """The folder that the engine loads: what a hook named, else what was downloaded, else the
    source itself.

    Raises `StorageError` (CAI-STORAGE-001).
    """
    named = ctx.extra_init_kwargs.get("model") or folder_of(ctx)
    if named is None and _is_here(job.source):
        named = fetch(job.source)
    if named is None:
        raise StorageError(
            "CAI-STORAGE-001",
            f"{job.source}: nothing was downloaded, and no hook said where the model is",
            hint="Let a hook set ctx.download_result to the folder.",
        )
    folder = Path(named)
    if not folder.is_dir():
        raise StorageError("CAI-STORAGE-001", f"{folder}: there is no such folder")
    if download_mode(ctx.local_node_download_model) is DownloadMode.MODEL_AND_TOKENIZER:
        check_folder(folder)
    return folder


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of `ctx.custom_data` other processes can have: objects of this one stay here."""
    found = {}
    for key, value in data.items():
        try:
            found[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            log.info("ctx.custom_data[%r] is no plain data; other processes do not see it", key)
    return found


def _is_here(source: str) -> bool:
    return source.startswith(BUILT_IN_PREFIX) or local_folder(source) is not None


def _reserved_gpus(job: ReplicaJob) -> int:
    bundles = merged(job.placement)
    within = bundles if over_nodes(job.engine_args) else bundles[:1]
    return int(sum(bundle.get("GPU", 0) for bundle in within))
