"""Lifecycle callbacks: code of the user's that runs while a replica starts and stops."""

from ray_serve_cai.callbacks.base import (
    CallbackBase,
    CallbackConfig,
    NodeInitializationCallback,
    RayServeLLMCallback,
)
from ray_serve_cai.callbacks.cloud import CloudDownloader
from ray_serve_cai.callbacks.compile_cache import CompileCache
from ray_serve_cai.callbacks.config import LLMConfig
from ray_serve_cai.callbacks.context import (
    CallbackCtx,
    DownloadMode,
    DownloadResult,
    NodeDownload,
    NodeInitializationContext,
    Placement,
)
from ray_serve_cai.callbacks.hooks import TABLE, Point
from ray_serve_cai.callbacks.node_init import InitializeNodeOutput, initialize_node
from ray_serve_cai.callbacks.runner import Runner

__all__ = [
    "TABLE",
    "CallbackBase",
    "CallbackConfig",
    "CallbackCtx",
    "CloudDownloader",
    "CompileCache",
    "DownloadMode",
    "DownloadResult",
    "InitializeNodeOutput",
    "LLMConfig",
    "NodeDownload",
    "NodeInitializationCallback",
    "NodeInitializationContext",
    "Placement",
    "Point",
    "RayServeLLMCallback",
    "Runner",
    "initialize_node",
]
