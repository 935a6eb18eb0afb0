"""`initialize_node` in plain Python: order, what is skipped, and what is downloaded."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import initialize, one_hook, recorder, runner

from ray_serve_cai.callbacks import (
    CallbackBase,
    CallbackCtx,
    DownloadMode,
    DownloadResult,
    LLMConfig,
    NodeDownload,
    initialize_node,
    node_init,
)
from ray_serve_cai.callbacks.hooks import HOOKS
from ray_serve_cai.callbacks.node_init import download_of, folder_of, prepare
from ray_serve_cai.errors import StorageError

START = HOOKS[: HOOKS.index("on_ready")]
NODE = socket.gethostname()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """The downloads that would have been; each yields a folder."""
    found: list[tuple[str, tuple[str, ...]]] = []

    def fetch(source: str, exclude: tuple[str, ...] = (), **_: object) -> Path:
        found.append((source, exclude))
        return tmp_path

    monkeypatch.setattr(node_init, "fetch", fetch)
    return found


def skipping(hook: str, calls: list[str]) -> type:
    def skip(self: object) -> bool:
        calls.append(hook)
        return False

    return type("Skipping", (recorder("", calls),), {hook: skip})


class TestOrder:
    def test_of_a_class_with_every_hook(self) -> None:
        calls: list[str] = []
        initialize(recorder("", calls))
        assert calls == list(START)

    @pytest.mark.parametrize(
        ("hook", "left_out"),
        [
            ("on_pre_placement_group", ()),
            (
                "on_pre_initialization",
                (
                    "on_before_download",
                    "on_pre_download",
                    "on_before_download_model_files_distributed",
                    "on_after_node_init",
                    "on_post_download",
                ),
            ),
            (
                "on_before_init",
                (
                    "on_before_download",
                    "on_pre_download",
                    "on_before_download_model_files_distributed",
                    "on_after_node_init",
                    "on_post_download",
                ),
            ),
            ("on_pre_download", ("on_before_download_model_files_distributed",)),
            ("on_before_node_init", ()),
            ("on_before_download", ()),
            ("on_pre_engine_init", ()),
        ],
    )
    def test_with_false(self, hook: str, left_out: tuple[str, ...], asked: list[Any]) -> None:
        calls: list[str] = []
        initialize(skipping(hook, calls), "org/name")
        assert calls == [each for each in START if each not in left_out]
        assert len(asked) == (0 if left_out else 1)


class TestPlacement:
    def test_default(self) -> None:
        assert initialize().placement_group == LLMConfig("m").placement()

    def test_false_skips_the_default(self) -> None:
        kind = one_hook("on_pre_placement_group", lambda self: False)
        assert initialize(kind).placement_group is None

    @pytest.mark.parametrize("answer", [False, None, True])
    def test_what_a_hook_sets_stays(self, answer: bool | None) -> None:
        def hook(self: object, ctx: CallbackCtx) -> bool | None:
            ctx.placement_group = {"bundles": [{"GPU": 8}]}
            return answer

        output = initialize(one_hook("on_pre_placement_group", hook))
        assert output.placement_group == {"bundles": [{"GPU": 8}]}

    def test_is_there_before_the_replica_starts(self) -> None:
        seen: list[Any] = []
        hook = one_hook(
            "on_pre_initialization", lambda self, ctx: seen.append(ctx.placement_group)
        )
        initialize(hook)
        assert seen == [LLMConfig("m").placement()]


class TestDownload:
    def test_result_per_node(self, tmp_path: Path) -> None:
        def hook(self: Any) -> None:
            self.ctx.custom_data["here"] = 1

        kind = type("Mine", (CallbackBase,), {"on_before_download_model_files_distributed": hook})
        assert initialize(kind, tmp_path).download_result == DownloadResult(
            str(tmp_path), {NODE: NodeDownload(str(tmp_path), {"here": 1})}
        )

    @pytest.mark.parametrize("by", ["model_id", "model_source"])
    def test_a_local_folder_is_not_downloaded(
        self, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(node_init, "fetch", None)
        config = LLMConfig(**{"model_id": "m", by: str(tmp_path)})
        result = asyncio.run(initialize_node(config)).download_result
        assert result.folder == str(tmp_path)

    @pytest.mark.parametrize(
        ("mode", "excluded", "taken"),
        [
            (None, [], ["model.safetensors", "config.json", "tokenizer.json"]),
            ("MODEL_AND_TOKENIZER", [], ["model.safetensors"]),
            ("CUSTOM", [], ["model.safetensors"]),
            ("EXCLUDE_SAFETENSORS", ["*.safetensors"], ["*.bin", "tokenizer.json"]),
            ("TOKENIZER_ONLY", ["*.safetensors", "*.bin", "*.gguf", "*.pth"], ["tokenizer.json"]),
        ],
    )
    def test_modes(
        self, mode: str, excluded: list[str], taken: list[str], asked: list[Any]
    ) -> None:
        def hook(self: object, ctx: CallbackCtx) -> None:
            ctx.local_node_download_model = mode

        initialize(one_hook("on_pre_download", hook), "org/name")
        ((source, exclude),) = asked
        assert source == "org/name"
        assert set(excluded) <= set(exclude)
        assert not set(taken) & set(exclude)

    def test_none(self, asked: list[Any]) -> None:
        def hook(self: object, ctx: CallbackCtx) -> None:
            ctx.local_node_download_model = "NONE"

        output = initialize(one_hook("on_before_download", hook), "org/name")
        assert asked == []
        assert output.download_result == DownloadResult(None, {NODE: NodeDownload(None, {})})

    def test_custom_warns(self, asked: list[Any], caplog: pytest.LogCaptureFixture) -> None:
        def hook(self: object, ctx: CallbackCtx) -> None:
            ctx.local_node_download_model = "CUSTOM"

        with caplog.at_level(logging.WARNING):
            initialize(one_hook("on_pre_download", hook), "org/name")
        assert '"CUSTOM" is no download mode' in caplog.text

    def test_run_init_node_skips_the_default_only(self, asked: list[Any]) -> None:
        calls: list[str] = []

        def hook(self: object, ctx: CallbackCtx) -> None:
            calls.append("on_before_node_init")
            ctx.run_init_node = False

        kind = type("Mine", (recorder("", calls),), {"on_before_node_init": hook})
        output = initialize(kind, "org/name")
        assert calls == list(START)
        assert asked == []
        assert output.download_result.nodes == {NODE: NodeDownload(None, {})}

    def test_what_a_hook_found_stays(self, asked: list[Any]) -> None:
        def hook(self: object, ctx: CallbackCtx) -> bool:
            ctx.download_result = "/srv/model"
            return False

        output = initialize(one_hook("on_pre_download", hook), "org/name")
        assert output.download_result == "/srv/model"
        assert asked == []

    def test_modes_of_a_built_in_model(self) -> None:
        for mode in DownloadMode:
            if mode is not DownloadMode.NONE:
                assert download_of("builtin:demo")(mode)

    def test_failure(self) -> None:
        told: list[Any] = []
        kind = one_hook("on_failure", lambda self, error: told.append(error))
        with pytest.raises(StorageError) as caught:
            initialize(kind, "/nowhere/at/all")
        assert told == [caught.value]

    @pytest.mark.parametrize(
        ("result", "expected"),
        [
            (None, None),
            ("/a", Path("/a")),
            (Path("/a"), Path("/a")),
            (DownloadResult("/a"), Path("/a")),
            (DownloadResult(None), None),
            (object(), None),
        ],
    )
    def test_folder_of(self, result: object, expected: Path | None) -> None:
        assert folder_of(CallbackCtx(download_result=result)) == expected


class TestOtherNodes:
    def test_their_results_are_kept_apart(self, tmp_path: Path) -> None:
        theirs = {"n2": NodeDownload("/n2", {"a": 2}), "n3": NodeDownload("/n3", {"a": 3})}

        async def elsewhere(ctx: CallbackCtx) -> dict[str, NodeDownload]:
            ctx.custom_data["asked"] = True
            return theirs

        it = runner()
        asyncio.run(prepare(it, download_of(str(tmp_path)), "n1", elsewhere))
        result = it.ctx.download_result
        assert result.folder == str(tmp_path)
        assert result.nodes.keys() == {"n1", "n2", "n3"}
        assert {name: result.nodes[name] for name in theirs} == theirs

    @pytest.mark.parametrize(
        "hook", ["on_before_init", "on_pre_initialization", "on_pre_download"]
    )
    def test_are_not_asked_when_the_download_is_skipped(self, hook: str) -> None:
        async def elsewhere(ctx: CallbackCtx) -> dict[str, NodeDownload]:
            raise AssertionError

        it = runner(one_hook(hook, lambda self: False))
        asyncio.run(prepare(it, download_of("org/name"), "n1", elsewhere))
        assert it.ctx.download_result is None


def test_needs_no_ray() -> None:
    code = """
import asyncio, sys
sys.modules["ray"] = None
from ray_serve_cai.callbacks import LLMConfig, initialize_node
output = asyncio.run(initialize_node(LLMConfig("m", "builtin:demo")))
print(output.download_result.folder)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_dir()
