"""Bring the results of torch.compile from an earlier start, so that this one need not compile.

    callbacks:
      - class: callbacks.compile_cache.CompileCache
        kwargs: {source: s3://my-bucket/compile-cache, folder: /tmp/vllm}

`source` holds what vLLM left in its own folder, `~/.cache/vllm/torch_compile_cache`. vLLM looks
there by a hash of its version, the model and the arguments: where nothing fits, it compiles anew.
"""

from __future__ import annotations

from pathlib import Path

from ray_serve_cai.callbacks import CallbackBase
from ray_serve_cai.storage.mirror import mirror


class CompileCache(CallbackBase):
    """Makes `folder` vLLM's folder for caches on each node, and copies `source` into it."""

    def __init__(self, *, source: str, folder: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.source, self.folder = source, Path(folder).expanduser()

    def on_before_node_init(self) -> None:
        env = {"VLLM_CACHE_ROOT": str(self.folder)}
        self.ctx.runtime_env = {"env_vars": {**_env_vars(self.ctx.runtime_env), **env}}

    def on_before_download_model_files_distributed(self) -> None:
        mirror(self.source, self.folder / "torch_compile_cache")


def _env_vars(runtime_env: dict | None) -> dict[str, str]:
    return dict((runtime_env or {}).get("env_vars") or {})
