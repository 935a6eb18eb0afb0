from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up import initialize

from ray_serve_cai.callbacks import CallbackConfig, CompileCache, compile_cache
from ray_serve_cai.callbacks.compile_cache import cache_key, device_name
from ray_serve_cai.errors import HookError
from ray_serve_cai.storage.push import push
from ray_serve_cai.storage.source import cache_folder


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("x")
    return folder


def start(model: Path, url: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a start with the callback leaves: its notes and the engine's environment."""
    output = initialize(CallbackConfig(CompileCache, {"url": url}), str(model))
    return output.custom_data["compile_cache"], output.runtime_env["env_vars"]


def test_first_nothing_then_what_was_sent(model: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    note, env = start(model, url)
    root = cache_folder() / "compile" / note["key"]
    assert (note["brought"], env) == (False, {"VLLM_CACHE_ROOT": str(root)})
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "kernel.so").write_text("code")
    push(tmp_path / "made", f"{url}/{note['key']}")
    again, _ = start(model, url)
    assert again == {"key": note["key"], "brought": True}
    assert (root / "torch_compile_cache" / "kernel.so").read_text() == "code"


def ready(model: Path, url: str) -> CompileCache:
    """The callback of an engine that compiled and became ready."""
    callback = CompileCache(url=url)
    callback.ctx.llm_config = SimpleNamespace(model_source=str(model), engine_kwargs={})
    callback.llm_config = callback.ctx.llm_config
    callback.on_pre_engine_init()
    return callback


def test_news_are_sent_once(model: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    callback = ready(model, url)
    callback.folder.mkdir(parents=True)
    (callback.folder / "kernel.so").write_text("code")
    callback.on_ready()
    callback.on_shutdown()
    key = callback.ctx.custom_data["compile_cache"]["key"]
    assert (tmp_path / "store" / key / "kernel.so").read_text() == "code"
    second = ready(model, url)
    second.on_ready()
    assert second._pushing is None, "it was brought as it is"
    (second.folder / "other.so").write_text("more")
    second.on_ready()
    second.on_shutdown()
    assert (tmp_path / "store" / key / "other.so").read_text() == "more"


def test_half_or_damaged_caches_are_not_used(model: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    note, _ = start(model, url)
    there = tmp_path / "store" / note["key"]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "kernel.so").write_text("code")
    push(tmp_path / "made", f"{url}/{note['key']}")
    (there / "kernel.so").write_text("edoc")
    assert start(model, url)[0]["brought"] is False
    shutil.rmtree(there / ".cai")
    assert start(model, url)[0]["brought"] is False
    assert not list(cache_folder().rglob("*.so"))


def test_a_store_that_cannot_be_asked_is_an_error(model: Path) -> None:
    with pytest.raises(HookError, match="nosuch:// is not known"):
        start(model, "nosuch://bucket")


class TestKey:
    ARGS = {"max_model_len": 8}

    def test_is_stable(self, model: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(model, tmp_path / "copy")
        (copy / ".cai").mkdir()
        (copy / ".cai" / "manifest.json").write_text("{}")
        dashed = {"max-model-len": 8}
        assert cache_key(model, self.ARGS, "gpu") == cache_key(copy, dashed, "gpu")

    def test_depends_on_everything(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = {
            cache_key(model, self.ARGS, "gpu"),
            cache_key(model, {"max_model_len": 9}, "gpu"),
            cache_key(model, self.ARGS, "another gpu"),
        }
        (model / "config.json").write_text('{"hidden_size": 1}')
        keys.add(cache_key(model, self.ARGS, "gpu"))
        (model / "adapter.bin").write_text("")
        keys.add(cache_key(model, self.ARGS, "gpu"))
        for name in ("vllm", "torch"):
            monkeypatch.setattr(
                compile_cache, "_version", lambda it, name=name: "next" if it == name else "1"
            )
            keys.add(cache_key(model, self.ARGS, "gpu"))
        assert len(keys) == 7


def test_device_is_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1 $2" = "-i 1,2" ] && printf "GPU B\\nGPU A\\nGPU B\\n"\n')
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert device_name() == "GPU A, GPU B"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "GPU" not in device_name()
