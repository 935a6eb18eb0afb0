"""Measure a replica's start, and write the times into a file.

    callbacks:
      - class: callbacks.metrics.StartupMetrics
        kwargs: {output_path: /tmp/startup.json}

Replicas that share a disk need files of their own: `{pid}` in the path becomes the process id.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ray_serve_cai.callbacks import CallbackCtx


class StartupMetrics:
    """Writes the seconds from the first hook to each later one as a JSON object."""

    def __init__(self, output_path: str) -> None:
        self.output_path = Path(output_path.replace("{pid}", str(os.getpid()))).expanduser()
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    def on_pre_initialization(self, ctx: CallbackCtx) -> None:
        self.started = time.monotonic()

    def on_post_download(self, ctx: CallbackCtx) -> None:
        self._note("downloaded")

    def on_pre_engine_init(self, ctx: CallbackCtx) -> None:
        self._note("prepared")

    def on_post_engine_init(self, ctx: CallbackCtx) -> None:
        self._note("engine_started")

    def on_post_initialization(self, ctx: CallbackCtx) -> None:
        self._note("total")
        self.output_path.parent.mkdir(parents=True, exist_ok=True)
        self.output_path.write_text(json.dumps(self.seconds, indent=2) + "\n")

    def _note(self, what: str) -> None:
        self.seconds[what] = round(time.monotonic() - self.started, 3)
