"""The faults of callbacks as Ray Serve LLM has them; a test for each."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import initialize, one_hook, raising, recorder, run, runner

import ray_serve_cai.callbacks as public
from ray_serve_cai.callbacks import (
    CallbackBase,
    CallbackConfig,
    CallbackCtx,
    CloudDownloader,
    LLMConfig,
    NodeDownload,
    Point,
    base,
    initialize_node,
)
from ray_serve_cai.callbacks.build import CallbackSpec
from ray_serve_cai.callbacks.check import check_callbacks
from ray_serve_cai.callbacks.context import env_vars
from ray_serve_cai.callbacks.node_init import download_of, prepare
from ray_serve_cai.errors import HookError, StorageError
from ray_serve_cai.spec import load_files, masked

SECRET = "hunter2-and-more"


class Keeper(CallbackBase):
    """Holds a lock, which cannot be pickled."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lock = threading.Lock()
        self.calls = 0

    def on_ready(self) -> None:
        self.calls += 1


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_01_hooks_run_within_a_running_loop() -> None:
    ran: list[str] = []

    async def note(word: str) -> None:
        await asyncio.sleep(0)
        ran.append(word)

    class Mine(CallbackBase):
        async def on_before_node_init(self) -> None:
            await note("async")

        async def on_before_download_model_files_distributed(self) -> None:  # type: ignore[override]
            await note("async where Ray's is sync")

        def on_ready(self) -> None:
            asyncio.run(note("sync with a loop of its own"))

    async def main() -> None:
        it = runner(Mine)
        for point in (Point.BEFORE_ANYTHING, Point.ON_EACH_NODE, Point.READY):
            await it.run(point)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()
    assert ran == ["async", "async where Ray's is sync", "sync with a loop of its own"]


def test_02_decorated_and_partial_async_hooks_are_awaited() -> None:
    ran: list[str] = []

    async def hook(word: str, self: object) -> None:
        await asyncio.sleep(0)
        ran.append(word)

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self: function(self)

    kind = one_hook(
        "on_pre_engine_init",
        functools.partialmethod(lambda self, word: hook(word, self), "partial"),
        on_post_engine_init=decorated(functools.partial(hook, "decorated")),
    )
    run(runner(kind), Point.BEFORE_ENGINE, Point.AFTER_ENGINE)
    assert ran == ["partial", "decorated"]


def test_03_instances_stay_in_their_process() -> None:
    config = LLMConfig("m", callback=Keeper)
    here = config.get_or_create_callback()
    here.calls = 5
    there = pickle.loads(pickle.dumps(config)).get_or_create_callback()
    assert (there.calls, there.lock is here.lock) == (0, False)
    assert config.get_or_create_callback() is here


def test_04_hooks_decide_the_placement() -> None:
    bundles = [{"GPU": 8}]

    class Mine:
        def on_pre_placement_group(self, ctx: CallbackCtx) -> bool:
            assert ctx.placement_group is None
            ctx.placement_group = {"bundles": bundles}
            return False

    assert initialize(Mine).placement_group == {"bundles": bundles}


def test_05_the_environment_is_for_the_engine() -> None:
    class Mine:
        def on_pre_initialization(self, ctx: CallbackCtx) -> None:
            ctx.runtime_env = {"env_vars": {"A": "1"}}

        def on_pre_engine_init(self, ctx: CallbackCtx) -> None:
            ctx.custom_data["before the engine"] = env_vars(ctx)

    output = initialize(Mine)
    assert output.runtime_env == {"env_vars": {"A": "1"}}
    assert output.custom_data == {"before the engine": {"A": "1"}}


def test_05_what_cannot_reach_the_engine_is_an_error() -> None:
    class Mine:
        def on_pre_initialization(self, ctx: CallbackCtx) -> None:
            ctx.runtime_env = {"pip": ["x"]}

    with pytest.raises(HookError, match="pip cannot be applied to a process that runs"):
        initialize(Mine)


def test_06_each_node_has_its_own_path(tmp_path: Path) -> None:
    async def elsewhere(ctx: CallbackCtx) -> dict[str, NodeDownload]:
        return {"n2": NodeDownload("/another/path")}

    it = runner(Keeper)
    asyncio.run(prepare(it, download_of(str(tmp_path)), "n1", elsewhere))
    folders = {name: node.folder for name, node in it.ctx.download_result.nodes.items()}
    assert folders == {"n1": str(tmp_path), "n2": "/another/path"}


def test_07_cloud_downloader_works_without_the_default_download(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("x")
    paths = [(str(tmp_path / "remote"), str(tmp_path / "here"))]
    kwargs = {"paths": paths, "ctx_kwargs": {"run_init_node": False}}
    output = initialize(CallbackConfig(CloudDownloader, kwargs), "org/name")
    assert output.download_result.folder is None
    assert (tmp_path / "here").read_text() == "x"


def test_08_sync_hooks_run_off_the_loop_and_have_time_outs(gate: threading.Event) -> None:
    threads: list[int] = []

    def hook(self: object) -> None:
        threads.append(threading.get_ident())
        gate.wait()

    it = runner(one_hook("on_ready", hook), timeout=0.05)
    with pytest.raises(HookError, match=r"on_ready .* TimeoutError: not done after 0.05 s"):
        run(it, Point.READY)
    assert threads
    assert threading.get_ident() not in threads


def test_09_errors_say_hook_class_node_and_model(caplog: pytest.LogCaptureFixture) -> None:
    cause = ValueError("boom")
    for on_error in ("fail", "log"):
        it = runner(one_hook("on_ready", raising(cause)))
        it._callbacks[0].spec = CallbackSpec(it._callbacks[0].spec.target, on_error=on_error)  # type: ignore[arg-type]
        caplog.clear()
        if on_error == "fail":
            with pytest.raises(HookError) as caught:
                run(it, Point.READY)
            assert caught.value.__cause__ is cause
            assert caught.value.message == (
                'on_ready of made_up.Mine failed on node n1 for model "m": ValueError: boom'
            )
        else:
            run(it, Point.READY)
        assert 'on_ready of made_up.Mine failed on node n1 for model "m"' in caplog.text
        assert "Traceback" in caplog.text
        assert "in raise_it" in caplog.text


def test_10_several_callbacks_in_order_until_shutdown() -> None:
    calls: list[str] = []
    it = runner(recorder("1.", calls), recorder("2.", calls))
    run(it, Point.READY, Point.DRAINING, Point.SHUT_DOWN, Point.FAILED)
    assert calls == [
        *("1.on_ready", "2.on_ready", "2.on_drain", "1.on_drain"),
        *("2.on_shutdown", "1.on_shutdown", "2.on_failure", "1.on_failure"),
    ]


def faults(project: Path, callback: str, body: str) -> str:
    (project / "callbacks").mkdir()
    (project / "callbacks" / "mine.py").write_text(f"class Mine:\n    {body}\n")
    file = project / "f.yaml"
    file.write_text(f"kind: Model\nname: m\nsource: a/b\ncallbacks:\n  - {callback}\n")
    return "\n".join(map(str, check_callbacks(load_files([file], env={})[0])))


@pytest.mark.parametrize(
    ("callback", "body", "said"),
    [
        ("{class: callbacks.mine.Mien}", "def on_ready(self): ...", 'did you mean "Mine"?'),
        ("{class: callbacks.mine.Mine, kwargs: {x: 1}}", "def on_ready(self): ...", "no such arg"),
        ("{class: callbacks.mine.Mine}", "def on_redy(self): ...", 'did you mean "on_ready"?'),
    ],
)
def test_11_paths_arguments_and_names_are_checked_before_anything_is_held(
    tmp_path: Path, callback: str, body: str, said: str
) -> None:
    found = faults(tmp_path, callback, body)
    assert said in found
    assert found.startswith(f"{tmp_path}/f.yaml:5:")


def test_12_each_class_is_there_once() -> None:
    assert public.CallbackBase is base.CallbackBase
    assert public.CallbackConfig is base.CallbackConfig
    assert public.NodeInitializationContext is public.CallbackCtx


def test_13_a_failed_download_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="org/no-such-model"):
        asyncio.run(initialize_node(LLMConfig("m", "org/no-such-model")))
    paths = [("memory://nothing/there", str(tmp_path / "here"))]
    with pytest.raises(HookError, match="memory://nothing/there"):
        initialize(CallbackConfig(CloudDownloader, {"paths": paths}))
    assert list(tmp_path.iterdir()) == []


class Telling:
    def __init__(self, api_key: str, nested: Any = None) -> None:
        raise ValueError(f"the key {api_key} is refused")

    def on_ready(self) -> None: ...


def test_14_secrets_are_in_no_repr_error_log_or_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kwargs = {"api_key": SECRET, "nested": {"tokens": [{"hf_token": SECRET}]}}
    given = CallbackConfig(Telling, kwargs)
    config = LLMConfig("m", "builtin:demo", callback=given)
    with pytest.raises(HookError) as caught:
        asyncio.run(initialize_node(config))
    assert "the key *** is refused" in caught.value.message
    file = tmp_path / "f.yaml"
    entry = f"{{class: {__name__}.Telling, kwargs: {json.dumps(kwargs)}}}"
    file.write_text(f"kind: Model\nname: m\nsource: a/b\ncallbacks:\n  - {entry}\n")
    document = load_files([file], env={})[0]
    shown = [given, config, config.callbacks, config.loaded(), CallbackCtx(config), document.spec]
    texts = [repr(each) for each in shown] + [str(caught.value), caplog.text]
    texts += [json.dumps(masked(document)), *map(str, check_callbacks(document))]
    assert caplog.text
    assert not [text for text in texts if SECRET in text]
