from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import ray_serve_cai.callbacks as public
from ray_serve_cai.callbacks import CallbackBase, CallbackConfig, LLMConfig, base, context
from ray_serve_cai.callbacks.build import CallbackSpec, resolve_class
from ray_serve_cai.callbacks.check import importable
from ray_serve_cai.errors import SpecError

PATH = "callbacks.holder.Holder"
HOLDER = """
import tempfile, threading
class Holder:
    built = 0
    def __init__(self, size=1):
        Holder.built += 1
        self.size, self.lock, self.file = size, threading.Lock(), tempfile.TemporaryFile()
"""


class Holder:
    """Holds what cannot be pickled."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.lock = threading.Lock()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - open on purpose

    def __del__(self) -> None:
        self.file.close()

    def on_ready(self) -> None: ...


class Ours(CallbackBase):
    def on_ready(self) -> None: ...


HERE = f"{__name__}.Holder"
DATA = {"callback_class": HERE, "callback_kwargs": {"size": 2}}


class TestSpellings:
    @pytest.mark.parametrize(
        "given",
        [
            {"callback_class": Holder, "callback_kwargs": {"size": 2}},
            {"callback_class": HERE, "callback_kwargs": {"size": 2}},
            {"callback": Holder, "callback_kwargs": {"size": 2}},
            {"callback": HERE.replace(".Holder", ":Holder"), "callback_kwargs": {"size": 2}},
            {"callback": CallbackConfig(Holder, {"size": 2})},
            {"callback": DATA},
            {"callback": CallbackSpec(Holder, {"size": 2})},
            {"callback": [DATA]},
            {"callback_config": CallbackConfig(HERE, {"size": 2})},
            {"callback_config": DATA},
            {"callback_config": DATA | {"callback_class": Holder}},
            {"callback_config": (CallbackConfig(Holder, {"size": 2}),)},
            {"callback_class": CallbackConfig(Holder, {"size": 2})},
        ],
        ids=str,
    )
    def test_all_of_them(self, given: dict[str, Any]) -> None:
        callback = LLMConfig("m", **given).get_or_create_callback()
        assert type(callback) is Holder
        assert callback.size == 2

    @pytest.mark.parametrize("given", [Holder, HERE, CallbackConfig(Holder), {}])
    def test_without_arguments(self, given: Any) -> None:
        callback = LLMConfig("m", callback=given).get_or_create_callback()
        assert type(callback) is (Holder if given else CallbackBase)

    def test_none(self) -> None:
        assert LLMConfig("m").get_or_create_callback() is None
        assert LLMConfig("m", callback=[]).get_or_create_callbacks() == []

    def test_several(self) -> None:
        config = LLMConfig("m", callback=[Ours, HERE], callback_config=CallbackConfig(Ours))
        callbacks = config.get_or_create_callbacks()
        assert [type(each) for each in callbacks] == [Ours, Holder, Ours]
        assert config.get_or_create_callback() is callbacks[0]

    @pytest.mark.parametrize(("raises", "expected"), [(True, "fail"), (False, "log")])
    def test_on_error(self, raises: bool, expected: str) -> None:
        given = CallbackConfig(Ours, raise_error_on_callback=raises)
        config = LLMConfig("m", callback_config=given)
        assert config.callbacks[0].on_error == expected
        assert config.get_or_create_callback().raise_error_on_callback is raises

    def test_the_base_class_is_built_as_ray_does(self) -> None:
        config = LLMConfig("m", callback=Ours, callback_kwargs={"my_param": 1})
        callback = config.get_or_create_callback()
        assert callback.llm_config is config
        assert callback.ctx.llm_config is config
        assert callback.kwargs == {"my_param": 1}

    def test_the_model(self) -> None:
        loading = {"model_id": "m", "model_source": "org/name"}
        for config in (LLMConfig(model_loading_config=loading), LLMConfig("m", "org/name")):
            assert (config.model_id, config.model_source) == ("m", "org/name")
            assert config.model_loading_config == loading
        assert LLMConfig("org/name").model_source == "org/name"


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"callback_kwargs": {"a": 1}}, "callback_kwargs needs one"),
            ({"callback": DATA, "callback_kwargs": {"a": 1}}, "callback_kwargs needs one"),
            ({"callback_class": DATA, "callback_kwargs": {"a": 1}}, "callback_kwargs needs one"),
            ({"callback": [Ours, Holder], "callback_kwargs": {"a": 1}}, "needs one"),
            ({"callback": 3}, "a callback is a class"),
            ({"callback": Ours()}, "not a Ours"),
            ({"callback_config": {"callback_class": 3}}, "a callback is a class"),
            ({"callback_config": {"callback_klass": Ours}}, "callback_klass"),
        ],
    )
    def test_spellings(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(SpecError, match=said):
            LLMConfig("m", **given)

    def test_no_model(self) -> None:
        with pytest.raises(SpecError, match="needs model_id"):
            LLMConfig()

    @pytest.mark.parametrize("path", ["nowhere.Class", f"{__name__}.Hodler", f"{__name__}.HERE"])
    def test_paths(self, path: str) -> None:
        config = LLMConfig("m", callback=path)
        with pytest.raises(SpecError) as caught:
            config.get_or_create_callback()
        assert caught.value.code == "CAI-SPEC-010"

    def test_a_class_that_nobody_else_can_import(self) -> None:
        class Local: ...

        with pytest.raises(SpecError, match="cannot be imported elsewhere"):
            CallbackSpec(Local).to_json()


class TestOneInstance:
    def test_per_process(self) -> None:
        config = LLMConfig("m", callback=[Holder, Ours])
        first = config.get_or_create_callbacks()
        assert all(a is b for a, b in zip(first, config.get_or_create_callbacks(), strict=True))
        assert config.get_or_create_callback() is first[0]

    def test_pickled_with_a_lock_and_an_open_file(self) -> None:
        config = LLMConfig("m", callback=HERE, callback_kwargs={"size": 2})
        here = config.get_or_create_callback()
        here.size = 9
        there = pickle.loads(pickle.dumps(config)).get_or_create_callback()
        assert there is not here
        assert there.size == 2
        assert config.get_or_create_callback() is here

    def test_the_constructor_runs_again_on_the_other_side(self, tmp_path: Path) -> None:
        (tmp_path / "callbacks").mkdir()
        (tmp_path / "callbacks" / "holder.py").write_text(HOLDER)
        with importable(tmp_path):
            config = LLMConfig("m", callback=resolve_class(PATH), callback_kwargs={"size": 5})
            here = config.get_or_create_callback()
            here.size = 9
            data = pickle.dumps(config)
            here.file.close()
        code = (
            "import pickle, sys; it = pickle.load(sys.stdin.buffer).get_or_create_callback(); "
            "print(it.size, it.built, it.lock.locked())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=data, cwd=tmp_path, capture_output=True, check=True
        )
        assert done.stdout.split() == [b"5", b"1", b"False"]

    def test_as_data(self) -> None:
        spec = CallbackSpec(Holder, {"size": 2}, "log", 5.0)
        data = spec.to_json()
        assert data["target"] == f"{__name__}:Holder"
        again = CallbackSpec.from_json(data)
        assert resolve_class(str(again.target)) is Holder
        assert (again.kwargs, again.on_error, again.timeout) == ({"size": 2}, "log", 5.0)


def test_one_class_each_under_every_name() -> None:
    assert public.CallbackBase is base.CallbackBase
    assert public.CallbackConfig is base.CallbackConfig
    assert public.CallbackCtx is public.NodeInitializationContext is context.CallbackCtx
    for name in public.__all__:
        found = getattr(public, name)
        if isinstance(found, type):
            assert getattr(sys.modules[found.__module__], name) in (found, public.CallbackCtx)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ([{"CPU": 1, "GPU": 1}], "PACK")),
        ({"engine_kwargs": {"tensor_parallel_size": 4}}, ([{"CPU": 1, "GPU": 4}], "PACK")),
        (
            {"placement_group_config": {"bundles": [{"CPU": 2}] * 2, "strategy": "SPREAD"}},
            ([{"CPU": 2}] * 2, "SPREAD"),
        ),
    ],
)
def test_default_placement(given: dict[str, Any], expected: tuple[Any, str]) -> None:
    placement = LLMConfig("m", **given).placement()
    assert (list(placement.bundles), placement.strategy) == expected
