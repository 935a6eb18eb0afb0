"""Choose what the default download brings to which node.

    callbacks:
      - class: callbacks.custom_download.CustomDownload
        kwargs: {local: MODEL_AND_TOKENIZER, workers: TOKENIZER_ONLY}

The words are NONE, TOKENIZER_ONLY, EXCLUDE_SAFETENSORS and MODEL_AND_TOKENIZER.
"""

from __future__ import annotations

from ray_serve_cai.callbacks import CallbackCtx


class CustomDownload:
    """Sets the download modes of the replica's own node and of its other nodes."""

    def __init__(
        self, local: str = "MODEL_AND_TOKENIZER", workers: str = "MODEL_AND_TOKENIZER"
    ) -> None:
        self.local, self.workers = local, workers

    def on_pre_download(self, ctx: CallbackCtx) -> None:
        ctx.local_node_download_model = self.local
        ctx.worker_node_download_model = self.workers
