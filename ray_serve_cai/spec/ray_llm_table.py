"""How a Ray Serve LLM file becomes `kind: Model`, as a table that the converter follows.

docs/specs.md shows the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fate = Literal["mapped", "ignored", "refused"]
Scope = Literal["file", "application", "args", "llm_config"]


@dataclass(frozen=True)
class Row:
    """One setting. `target` is its key in the model spec, when it has one there; `note` says how
    it is mapped, or why it is ignored or refused."""

    scope: Scope
    key: str
    fate: Fate
    target: str = ""
    note: str = ""


_PACE = "the pace of Serve's own autoscaler; here `replicas` has its own settings"
_PROXY = "the cluster's gateway listens instead of Serve's proxies"
_DEPLOY = "deployment_config."
_SCALE = "deployment_config.autoscaling_config."
_ACTOR = "deployment_config.ray_actor_options."


def _mapped(key: str, target: str, note: str = "") -> Row:
    return Row("llm_config", key, "mapped", target, note)


def _ignored(scope: Scope, note: str, *keys: str) -> tuple[Row, ...]:
    return tuple(Row(scope, key, "ignored", "", note) for key in keys)


def _refused(scope: Scope, note: str, *keys: str) -> tuple[Row, ...]:
    return tuple(Row(scope, key, "refused", "", note) for key in keys)


MAPPING: tuple[Row, ...] = (
    Row("file", "applications", "mapped", "", "every `llm_config` becomes a Model"),
    *_ignored("file", _PROXY, "proxy_location", "http_options", "grpc_options"),
    *_ignored("file", "logging is set per command", "logging_config"),
    *_ignored("application", "every model is an application of its own", "name"),
    Row("application", "route_prefix", "mapped", "", "only `/`; the gateway routes by model"),
    Row("application", "import_path", "mapped", "", "only `ray.serve.llm:build_openai_app`"),
    Row("application", "args", "mapped"),
    *_refused("application", "use the `env` of the models", "runtime_env"),
    *_refused("application", "deployments cannot be overridden by name", "deployments"),
    Row("args", "llm_configs", "mapped", "", "a path to another file is refused"),
    *_refused(
        "args", "the gateway is the ingress", "ingress_cls_config", "ingress_deployment_config"
    ),
    _mapped(
        "model_loading_config.model_id", "name", "also `source` when there is no model_source"
    ),
    _mapped("model_loading_config.model_source", "source"),
    _mapped("model_loading_config.model_source.bucket_uri", "source"),
    _mapped("model_loading_config.tokenizer_source", "engine.args.tokenizer"),
    _mapped("llm_engine", "engine.type", "only `vLLM`"),
    _mapped("engine_kwargs", "engine.args"),
    _mapped(
        "accelerator_type",
        "resources.gpu",
        "GPUs = tensor_parallel_size x pipeline_parallel_size; the node groups of the cluster "
        "decide which kind. Without it, `accelerator_config` and `placement_group_config` no GPU "
        "is reserved",
    ),
    _mapped("accelerator_config.kind", "resources.gpu", "`gpu` as above, `cpu` for none"),
    _mapped("placement_group_config.bundles", "resources", "the sums of CPU, GPU and memory"),
    _mapped(
        "placement_group_config.bundle_per_worker",
        "resources",
        "times tensor_parallel_size x pipeline_parallel_size",
    ),
    Row(
        "llm_config",
        "placement_group_config.strategy",
        "mapped",
        "",
        "only PACK and STRICT_PACK; a replica lies on one node",
    ),
    _mapped(_DEPLOY + "num_replicas", "replicas", "`auto` is 1 to 100"),
    _mapped(_SCALE + "min_replicas", "replicas.min", "1 when it is not given"),
    _mapped(_SCALE + "max_replicas", "replicas.max", "1 when it is not given"),
    _mapped(
        _SCALE + "target_ongoing_requests",
        "replicas.target_ongoing_requests",
        "16 when it is not given, where Ray has 2",
    ),
    _mapped(_SCALE + "downscale_to_zero_delay_s", "replicas.idle_after"),
    *_ignored(
        "llm_config",
        _PACE,
        *(
            _SCALE + key
            for key in (
                "initial_replicas",
                "metrics_interval_s",
                "look_back_period_s",
                "upscale_delay_s",
                "downscale_delay_s",
                "smoothing_factor",
                "upscale_smoothing_factor",
                "downscale_smoothing_factor",
                "upscaling_factor",
                "downscaling_factor",
            )
        ),
    ),
    _mapped(_ACTOR + "num_cpus", "resources.cpu"),
    _mapped(_ACTOR + "num_gpus", "resources.gpu", "whole GPUs only"),
    _mapped(_ACTOR + "memory", "resources.memory"),
    *_ignored("llm_config", "the node groups of the cluster decide", _ACTOR + "accelerator_type"),
    *_ignored("llm_config", "a deployment is called after its model", _DEPLOY + "name"),
    *_ignored(
        "llm_config",
        "the engine's own queue bounds a replica; see max_num_seqs",
        _DEPLOY + "max_ongoing_requests",
    ),
    *_ignored(
        "llm_config",
        "health checks and shutdown have their own timing here",
        *(
            _DEPLOY + key
            for key in (
                "health_check_period_s",
                "health_check_timeout_s",
                "graceful_shutdown_wait_loop_s",
                "graceful_shutdown_timeout_s",
            )
        ),
    ),
    _mapped("runtime_env.env_vars", "env"),
    *_refused(
        "llm_config",
        "packages and files belong on the nodes before a model is deployed",
        *(f"runtime_env.{key}" for key in ("pip", "uv", "conda", "working_dir", "py_modules")),
        "runtime_env.image_uri",
        "runtime_env.container",
    ),
    _mapped("callback_config.callback_class", "callbacks[0].class"),
    _mapped("callback_config.callback_kwargs", "callbacks[0].kwargs"),
    _mapped(
        "callback_config.raise_error_on_callback",
        "callbacks[0].on_error",
        "true is `fail`, false is `log`",
    ),
    *_ignored("llm_config", "the gateway and the engine have their metrics", "log_engine_metrics"),
    *_refused("llm_config", "LoRA adapters cannot be loaded", "lora_config"),
    *_refused("llm_config", "the gateway takes the place of Ray's router", "experimental_configs"),
    *_refused("llm_config", "another server class cannot be used", "server_cls"),
)
