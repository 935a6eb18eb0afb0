"""Callbacks on live replicas of real vLLM: order, engine arguments, parsers, custom models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import Cai, Cluster, ask, short_folder, until

from ray_serve_cai.callbacks.hooks import HOOKS
from ray_serve_cai.demo import model_dir

pytestmark = pytest.mark.vllm

SHIPPED = Path(__file__).parents[2] / "callbacks"
ARGS = {"max_model_len": 1024, "enforce_eager": True}
QUESTION = "What is cai?"
RECORDER = """
import json
from ray_serve_cai.callbacks.hooks import HOOKS

class Recorder:
    def __init__(self, path):
        self.path = path

def hook(name):
    def run(self, ctx):
        if name == "on_pre_engine_init":
            ctx.extra_init_kwargs["max_model_len"] = 512
        with open(self.path, "a") as file:
            file.write(json.dumps(name) + "\\n")
    return run

for name in HOOKS:
    setattr(Recorder, name, hook(name))
"""
MODEL = '''
from vllm.model_executor.models.llama import LlamaForCausalLM

class MyLlama(LlamaForCausalLM):
    """Outside vLLM's tree."""
    print("MyLlama is imported", flush=True)
'''
RAY_CALLBACK = """
from ray.llm._internal.common.callbacks.base import CallbackBase

class Mine(CallbackBase):
    async def on_before_node_init(self):
        self.ctx.custom_data["seen"] = self.kwargs["my_param"]

    async def on_after_node_init(self):
        with open(self.kwargs["path"], "w") as file:
            file.write(self.ctx.custom_data["seen"] + self.llm_config.model_id)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        shutil.copytree(SHIPPED, folder / "callbacks")
        for name, text in {
            "recorder": RECORDER,
            "my_model": MODEL,
            "theirs": RAY_CALLBACK,
        }.items():
            (folder / "callbacks" / f"{name}.py").write_text(text)
        cai = Cai(folder)
        try:
            made = Cluster.up(cai, "hooked", head={"cpu": 2})
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


def deploy(cluster: Cluster, name: str, *callbacks: dict[str, Any], **engine: Any) -> None:
    args = ARGS | engine.pop("args", {})
    cluster.deploy_ok(
        name,
        engine={"type": "vllm", "args": args, **engine},
        resources={"cpu": 1},
        callbacks=list(callbacks),
    )


def log_of(cluster: Cluster, name: str) -> str:
    return cluster.cai.ok("model", "logs", name, "--cluster", cluster.name).stdout


def test_order_arguments_and_a_model_from_outside_the_tree(
    cluster: Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    recorder = {"class": "callbacks.recorder.Recorder", "kwargs": {"path": str(notes)}}
    kwargs = {"architecture": "MyLlama", "model_class": "callbacks.my_model:MyLlama"}
    custom = {"class": "callbacks.custom_model.CustomModel", "kwargs": kwargs}
    deploy(cluster, "order", custom, recorder)
    teardown = ["on_failure", "on_drain", "on_shutdown"]
    assert said(notes) == [hook for hook in HOOKS if hook not in teardown]
    assert cluster.model("order")["engine_config"]["context_length"] == 512
    assert "MyLlama is imported" in log_of(cluster, "order")
    answer = ask(cluster.client(), "order", QUESTION, temperature=0, max_tokens=64)
    assert answer == plain_answer()
    cluster.delete("order")
    assert said(notes)[-2:] == ["on_drain", "on_shutdown"]


def said(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reasoning_parser(cluster: Cluster) -> None:
    answer = plain_answer()
    marker = next(word for word in answer.split() if answer.count(word) == 1 and len(word) > 3)
    callback = {
        "class": "callbacks.reasoning_parser.EndMarker",
        "kwargs": {"name": "end_marker", "marker": marker},
    }
    deploy(cluster, "thinks", callback, transport="http", args={"reasoning_parser": "end_marker"})
    reply = cluster.client().chat.completions.create(
        model="thinks",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=64,
    )
    message = reply.choices[0].message.model_dump()
    before, _, after = answer.partition(marker)
    assert message.get("reasoning", message.get("reasoning_content")) == before
    assert message["content"] == after
    cluster.delete("thinks")


def plain_answer() -> str:
    from ray_serve_cai.demo.text import load_text

    return next(pair.answer for pair in load_text() if QUESTION in pair.questions)


def test_ray_serve_llm_file_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    """With a class that is written for, and imports, Ray's own CallbackBase."""
    loading = {"model_id": "theirs", "model_source": str(model_dir())}
    config = {
        "model_loading_config": loading,
        "engine_kwargs": ARGS,
        "accelerator_config": {"kind": "cpu"},
        "callback_config": {
            "callback_class": "callbacks.theirs.Mine",
            "callback_kwargs": {"my_param": "value of ", "path": str(tmp_path / "said")},
        },
    }
    application = {
        "args": {"llm_configs": [config]},
        "import_path": "ray.serve.llm:build_openai_app",
        "name": "llm_app",
        "route_prefix": "/",
    }
    spec = cluster.cai.folder / "ray.yaml"
    spec.write_text(yaml.safe_dump({"applications": [application]}))
    cluster.cai.ok("model", "deploy", spec, "--cluster", cluster.name)
    assert (tmp_path / "said").read_text() == "value of theirs"
    assert ask(cluster.client(), "theirs", QUESTION, temperature=0, max_tokens=64)
    cluster.delete("theirs")


def test_compile_cache(cluster: Cluster, tmp_path: Path) -> None:
    """The second engine finds in the store what the first one compiled."""
    store, cache = tmp_path / "store", cluster.cai.folder / "cache" / "compile"
    callback = {
        "class": "ray_serve_cai.callbacks.CompileCache",
        "kwargs": {"url": f"file://{store}"},
    }
    compiling = {"enforce_eager": False, "max_model_len": 256}
    deploy(cluster, "compiles", callback, args=compiling)
    until(lambda: list(store.glob("*/.cai/manifest.json")), 60, "the cache in the store")
    kernels = {path.name for path in store.rglob("*.so")}
    assert kernels
    cluster.delete("compiles")
    shutil.rmtree(cache)
    deploy(cluster, "compiles", callback, args=compiling)
    assert f"compile cache from file://{store}" in log_of(cluster, "compiles")
    assert {path.name for path in cache.rglob("*.so")} == kernels, "none was compiled anew"
    cluster.delete("compiles")
