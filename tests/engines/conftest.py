"""A vLLM that cannot be imported, for tests of what is read from its source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_serve_cai.engines import vllm_args

ENGINE = """
class EngineArgs:
    model: str = ""
    max_model_len: int | None = None
    enforce_eager: bool = False
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
class Other:
    not_an_argument: int = 0
"""
FRONT = """
class BaseFrontendArgs:
    chat_template: str | None = None
class FrontendArgs(BaseFrontendArgs):
    reasoning_parser: str = ""
"""


@pytest.fixture
def made_up_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "vllm"
    for name, text in (
        ("__init__.py", "raise ImportError('planning must not import vLLM')"),
        ("engine/arg_utils.py", ENGINE),
        ("entrypoints/launchers/cli_args.py", FRONT),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    vllm_args.known_args.cache_clear()
    yield root
    vllm_args.known_args.cache_clear()
