"""The `cai` command run inside a workload of the stand-in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.cloudera.workload import Workload
from support import Cai

API_KEY = "key-of-the-clients"


@dataclass
class SessionCai(Cai):
    """Runs `cai` inside a session, with what the platform gives it there."""

    session: Workload | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home" / ".cai"

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        assert self.session is not None
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        own = {"CAI_API_KEY": API_KEY, "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            self.session.command(sys.executable, "-m", "ray_serve_cai", *words),
            stdin=subprocess.DEVNULL,
            text=True,
            env={**self.session.environment, **own, **(options.pop("env", None) or {})},
            **options,
        )
