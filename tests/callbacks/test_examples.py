"""Every example runs: those of the package's own module, and the files of `callbacks/`."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_serve_cai.callbacks import (
    CallbackConfig,
    InitializeNodeOutput,
    LLMConfig,
    initialize_node,
)
from ray_serve_cai.callbacks.catalog import Listed, of_project
from ray_serve_cai.callbacks.check import check_callbacks, hook_faults
from ray_serve_cai.callbacks.examples import EXAMPLES, Example, run_example
from ray_serve_cai.engines import vllm_plugin
from ray_serve_cai.errors import HookError
from ray_serve_cai.spec import load_files

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.stem for path in (ROOT / "callbacks").glob("*.py"))
SEEDS = {
    *("custom_download", "metrics", "custom_placement", "gpu_options", "full_initialization"),
    *("reasoning_parser", "custom_model", "compile_cache"),
}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(ROOT)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "callbacks"]:
        del sys.modules[name]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def prepare(
    model: Path, path: str, engine_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> InitializeNodeOutput:
    config = LLMConfig(
        "m",
        str(model),
        engine_kwargs=engine_kwargs,
        callback=CallbackConfig(f"callbacks.{path}", kwargs),
    )
    return asyncio.run(initialize_node(config))


class TestModule:
    @pytest.mark.parametrize(
        ("name", "field", "before", "after"),
        [
            ("custom download", "local_node_download_model", None, "MODEL_AND_TOKENIZER"),
            ("custom download", "worker_node_download_model", None, "MODEL_AND_TOKENIZER"),
            (
                "custom placement",
                "placement_group",
                {"bundles": [{"CPU": 1, "GPU": 1}], "strategy": "PACK"},
                {"bundles": [{"GPU": 8}], "strategy": "STRICT_PACK"},
            ),
            (
                "GPU options",
                "extra_init_kwargs",
                {},
                {
                    "gpu_memory_utilization": 0.95,
                    "tensor_parallel_size": 4,
                    "max_num_batched_tokens": 8192,
                },
            ),
            (
                "full custom initialisation",
                "runtime_env",
                None,
                {"env_vars": {"CUSTOM": "true"}},
            ),
            ("full custom initialisation", "extra_init_kwargs", {}, {"max_model_len": 1024}),
        ],
    )
    def test_what_each_changes(
        self, name: str, field: str, before: Any, after: Any, model: Path, tmp_path: Path
    ) -> None:
        assert run_example(self.example(name), model, tmp_path)[field] == (before, after)

    def test_metrics_writes_what_it_measured(self, model: Path, tmp_path: Path) -> None:
        changed = run_example(self.example("metrics"), model, tmp_path)
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert 0 <= written["download_time"] <= written["total_time"]
        assert changed == {"custom_data": ({}, {"metrics": written})}

    def test_full_initialisation_brings_its_own_model(self, model: Path, tmp_path: Path) -> None:
        changed = run_example(self.example("full custom initialisation"), model, tmp_path)
        assert changed["download_result"] == (str(model), str(tmp_path))

    def test_runs_on_its_own_without_ray(self, tmp_path: Path) -> None:
        program = (
            "import runpy, sys\n"
            "runpy.run_module('ray_serve_cai.callbacks.examples', run_name='__main__')\n"
            "assert not {'ray', 'vllm', 'torch'} & set(sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line for line in lines if not line.startswith(" ")] == [it.name for it in EXAMPLES]
        assert list(tmp_path.iterdir()) == []

    @staticmethod
    def example(name: str) -> Example:
        return next(each for each in EXAMPLES if each.name == name)


class TestFolder:
    def test_one_file_for_each_seed(self) -> None:
        assert set(FILES) == SEEDS

    @pytest.mark.parametrize("name", FILES)
    def test_one_class_without_faults(self, name: str) -> None:
        kind = self.only(name)
        assert hook_faults(kind) == []
        assert "vllm" not in self.top_level_imports(name)

    @pytest.mark.parametrize("name", FILES)
    def test_its_yaml_is_right(self, name: str, tmp_path: Path) -> None:
        doc = importlib.import_module(f"callbacks.{name}").__doc__ or ""
        start = next(at for at, line in enumerate(doc.splitlines()) if line.startswith("    "))
        block = [line for line in doc.splitlines()[start:] if not line or line[0] == " "]
        (tmp_path / "callbacks").symlink_to(ROOT / "callbacks")
        spec = tmp_path / "m.yaml"
        text = textwrap.dedent("\n".join(block))
        spec.write_text(f"kind: Model\nname: m\nsource: a/b\n{text}\n")
        (document,) = load_files([spec], env={})
        assert document.model.callbacks[0].class_path.startswith(f"callbacks.{name}.")
        assert check_callbacks(document) == []

    @staticmethod
    def only(name: str) -> type[Any]:
        module = importlib.import_module(f"callbacks.{name}")
        rows: list[Listed] = [it for it in of_project(ROOT) if it.source.endswith(f"/{name}.py")]
        (row,) = rows
        kind = getattr(module, row.path.rpartition(".")[2])
        assert isinstance(kind, type)
        return kind

    @staticmethod
    def top_level_imports(name: str) -> set[str]:
        lines = (ROOT / "callbacks" / f"{name}.py").read_text().splitlines()
        words = [line.split() for line in lines if line.startswith(("import ", "from "))]
        return {line[1].split(".")[0] for line in words}


class TestFiles:
    """What each file of `callbacks/` does to a node."""

    def test_custom_download(self, model: Path) -> None:
        seen = []

        class Last:
            def on_pre_download(self, ctx: Any) -> None:
                seen.append((ctx.local_node_download_model, ctx.worker_node_download_model))

        modes = {"local": "NONE", "workers": "TOKENIZER_ONLY"}
        first = CallbackConfig("callbacks.custom_download.CustomDownload", modes)
        asyncio.run(initialize_node(LLMConfig("m", str(model), callback=[first, Last])))
        assert seen == [("NONE", "TOKENIZER_ONLY")]

    def test_metrics(self, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "new" / "{pid}.json"
        prepare(model, "metrics.StartupMetrics", output_path=str(path))
        written = json.loads((tmp_path / "new" / f"{os.getpid()}.json").read_text())
        assert list(written) == ["downloaded", "prepared", "engine_started", "total"]
        assert list(written.values()) == sorted(written.values())
        assert written["downloaded"] >= 0

    def test_custom_placement(self, model: Path) -> None:
        options = {"num_gpus": 2, "num_cpus": 0, "bundles": 2, "strategy": "SPREAD"}
        out = prepare(model, "custom_placement.CustomPlacement", **options)
        found = getattr(out.placement_group, "data", lambda: out.placement_group)()
        assert found == {"bundles": [{"GPU": 2}, {"GPU": 2}], "strategy": "SPREAD"}

    def test_gpu_options(self, model: Path) -> None:
        out = prepare(model, "gpu_options.GpuOptions", gpu_memory_utilization=0.8)
        wanted = {"gpu_memory_utilization": 0.8, "max_num_batched_tokens": 8192}
        assert out.extra_init_kwargs == wanted
        out = prepare(model, "gpu_options.GpuOptions", tensor_parallel_size=4)
        assert out.extra_init_kwargs["tensor_parallel_size"] == 4

    def test_full_initialization(self, model: Path, tmp_path: Path) -> None:
        out = prepare(
            Path("nobody/never"),
            "full_initialization.FullInitialization",
            source=str(model),
            folder=str(tmp_path / "brought"),
            env_vars={"CUSTOM": "true"},
            engine_args={"max_model_len": 8},
        )
        assert out.download_result == str(tmp_path / "brought")
        assert (tmp_path / "brought" / "config.json").read_text() == "{}"
        assert out.runtime_env == {"env_vars": {"CUSTOM": "true"}}
        assert out.extra_init_kwargs == {"max_model_len": 8}

    def test_compile_cache(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "store" / "rank_0_0").mkdir(parents=True)
        (tmp_path / "store" / "rank_0_0" / "graph.py").write_text("x")
        cache = {"source": str(tmp_path / "store"), "folder": str(tmp_path / "here")}
        out = prepare(model, "compile_cache.CompileCache", {}, **cache)
        brought = tmp_path / "here" / "torch_compile_cache" / "rank_0_0" / "graph.py"
        assert brought.read_text() == "x"
        assert out.runtime_env == {"env_vars": {"VLLM_CACHE_ROOT": str(tmp_path / "here")}}

    def test_custom_model(self, model: Path) -> None:
        named = {"architecture": "Mine", "model_class": "callbacks.metrics:StartupMetrics"}
        given = {"hf_overrides": {"vocab_size": 8, "architectures": ["Other"]}}
        out = prepare(model, "custom_model.CustomModel", given, **named)
        assert out.extra_init_kwargs == {
            "hf_overrides": {"vocab_size": 8, "architectures": ["Mine"]}
        }
        assert calls_of(out) == [
            {"function": "callbacks.custom_model:register", "kwargs": named},
        ]

    @pytest.mark.parametrize("path", ["callbacks.metrics", "callbacks.gone:Model", "no.where:M"])
    def test_custom_model_that_is_not_there(self, path: str, model: Path) -> None:
        with pytest.raises(HookError, match="CustomModel failed"):
            prepare(model, "custom_model.CustomModel", architecture="Mine", model_class=path)

    def test_reasoning_parser(self, model: Path) -> None:
        out = prepare(model, "reasoning_parser.EndMarker", name="dot", marker=".")
        assert calls_of(out) == [
            {
                "function": "callbacks.reasoning_parser:register",
                "kwargs": {"name": "dot", "marker": "."},
            },
        ]
        with pytest.raises(HookError, match="the marker is empty"):
            prepare(model, "reasoning_parser.EndMarker", marker=" ")


def calls_of(out: InitializeNodeOutput) -> Any:
    return json.loads((out.runtime_env or {})["env_vars"][vllm_plugin.CALLS])


class TestCalls:
    """Calls that reach every process of vLLM through its plugin."""

    def test_are_made_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_plugin, "_ask_for_amx", lambda: None)
        environment = vllm_plugin.add_call({"env_vars": {"A": "b"}}, f"{__name__}.made", text="x")
        environment = vllm_plugin.add_call(environment, f"{__name__}:made", text="y")
        assert environment["env_vars"]["A"] == "b"
        monkeypatch.setenv(vllm_plugin.CALLS, environment["env_vars"][vllm_plugin.CALLS])
        MADE.clear()
        vllm_plugin.load()
        assert MADE == ["x", "y"]

    def test_none_are_made_without_callbacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_plugin, "_ask_for_amx", lambda: None)
        monkeypatch.delenv(vllm_plugin.CALLS, raising=False)
        MADE.clear()
        vllm_plugin.load()
        assert MADE == []


MADE: list[str] = []


def made(text: str) -> None:
    MADE.append(text)


MARKERS = st.text("ab<", min_size=1, max_size=4)


@given(MARKERS, st.lists(st.text("ab<", max_size=4)))
def test_a_streamed_answer_is_split_like_a_whole_one(marker: str, parts: list[str]) -> None:
    parser = importlib.import_module("callbacks.reasoning_parser")
    text, before, seen = "", ("", ""), []
    for part in parts:
        text += part
        now = parser.split_so_far(text, marker)
        assert all(new.startswith(old) for old, new in zip(before, now, strict=True))
        assert marker not in now[0]
        seen.append(now)
        before = now
    reasoning, content = parser.split(text, marker)
    if content is not None:
        assert before == (reasoning, content)
    else:
        assert reasoning.startswith(before[0])
        assert marker.startswith(reasoning[len(before[0]) :])


class Letters:
    """A tokenizer with one token for each character."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.vllm
class TestInVllm:
    """The registrations, in vLLM's own tables."""

    @pytest.fixture
    def parser(self) -> Any:
        reasoning = pytest.importorskip("vllm.reasoning")
        importlib.import_module("callbacks.reasoning_parser").register("ends", "END")
        return reasoning.ReasoningParserManager.get_reasoning_parser("ends")(Letters())

    def test_whole_answers(self, parser: Any) -> None:
        assert parser.extract_reasoning("why END so", None) == ("why ", " so")
        assert parser.extract_reasoning("why", None) == ("why", None)
        assert parser.extract_reasoning("ENDso", None) == (None, "so")

    def test_tokens(self, parser: Any) -> None:
        assert parser.extract_content_ids(ids("whyENDso")) == ids("so")
        assert parser.extract_content_ids(ids("why")) == []
        assert parser.count_reasoning_tokens(ids("whyENDso")) == 6
        assert parser.count_reasoning_tokens(ids("why")) == 3
        assert parser.is_reasoning_end(ids("user: END bot: END\n"))
        assert not parser.is_reasoning_end(ids("user: END bot: "))
        assert parser.is_reasoning_end_streaming(ids("whyEND"), ids("D"))
        assert not parser.is_reasoning_end_streaming(ids("whyEN"), ids("N"))

    def test_streamed_answers(self, parser: Any) -> None:
        text, deltas, ends = "", [], []
        for part in ("why", " E", "x EN", "D so", " it"):
            before, text = text, text + part
            deltas.append(parser.extract_reasoning_streaming(before, text, part, [], [], []))
            ends.append(parser.is_reasoning_end_streaming([], []))
        parts = [(it.reasoning, it.content) if it else None for it in deltas]
        assert parts == [("why", None), (" ", None), ("Ex ", None), (None, " so"), (None, " it")]
        assert ends == [False, False, False, True, True]

    def test_custom_model(self) -> None:
        vllm = pytest.importorskip("vllm")
        register = importlib.import_module("callbacks.custom_model").register
        register("MineForCausalLM", "callbacks.gone:Mine")
        assert "MineForCausalLM" in vllm.ModelRegistry.get_supported_archs()
