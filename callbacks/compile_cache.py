"""Bring the results of torch.compile from an earlier start, so that this one need not compile.

    callbacks:
      - class: callbacks.compile_cache.CompileCache
        kwargs: {source: s3://my-bucket/compile-cache, folder: /tmp/compile-cache}

`source` holds what vLLM left in its own folder, `~/.cache/vllm/torch_compile_cache/<hash>`; the
log of a start names it. It fits the same vLLM, model, arguments and kind of GPU only: where it
does not, vLLM compiles anew.
"""

from __future__ import annotations

from pathlib import Path

from ray_serve_cai.callbacks import CallbackBase
from ray_serve_cai.storage.mirror import mirror


class CompileCache(CallbackBase):
    """Copies `source`, a path or URL, to `folder` on each node, and points vLLM at it."""

    def __init__(self, *, source: str, folder: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.source, self.folder = source, Path(folder).expanduser()

    def on_before_download_model_files_distributed(self) -> None:
        mirror(self.source, self.folder)

    async def on_after_node_init(self) -> None:
        given = self.llm_config.engine_kwargs.get("compilation_config") or {}
        if not isinstance(given, dict):
            raise ValueError(f"compilation_config must be a mapping here, not {given!r}")
        self.ctx.extra_init_kwargs["compilation_config"] = {
            **given,
            "cache_dir": str(self.folder),
        }
