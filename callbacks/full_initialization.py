"""Prepare a replica wholly by yourself: environment, model and engine arguments.

    callbacks:
      - class: callbacks.full_initialization.FullInitialization
        kwargs:
          source: s3://my-bucket/my-model
          folder: /tmp/my-model
          env_vars: {OMP_NUM_THREADS: "4"}
          engine_args: {max_model_len: 4096}

Nothing is downloaded by default then, so `source` of the spec is only a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_serve_cai.callbacks import CallbackCtx
from ray_serve_cai.storage.mirror import mirror


class FullInitialization:
    """Copies the model from `source`, a path or URL, to `folder` and starts the engine on it."""

    def __init__(
        self,
        source: str,
        folder: str,
        env_vars: Mapping[str, str] | None = None,
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.folder = source, Path(folder).expanduser()
        self.env_vars, self.engine_args = dict(env_vars or {}), dict(engine_args or {})

    def on_pre_initialization(self, ctx: CallbackCtx) -> bool:
        ctx.runtime_env = {"env_vars": self.env_vars}
        ctx.extra_init_kwargs = self.engine_args
        ctx.download_result = str(mirror(self.source, self.folder))
        return False
