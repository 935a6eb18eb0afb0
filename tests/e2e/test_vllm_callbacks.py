"""Real vLLM with callbacks, custom models, a parser, an adapter, and as a pooling model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import yaml
from support import (
    TOGETHER_SECONDS,
    Cai,
    Cluster,
    ask,
    deploy_together,
    echo_spec,
    short_folder,
    until,
)

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
            made = Cluster.up(cai, "hooked", head={"cpu": 4})
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


@pytest.fixture(scope="module")
def models(cluster: Cluster) -> dict[str, Path]:
    """The models `order`, `thinks`, `embeds` and `theirs`, and the files that the hooks of two
    write to."""
    notes = {name: cluster.cai.folder / f"{name}.notes" for name in ("order", "theirs")}
    order = spec_of(
        "order",
        {
            "class": "callbacks.custom_model.CustomModel",
            "kwargs": {"architecture": "MyLlama", "model_class": "callbacks.my_model:MyLlama"},
        },
        {"class": "callbacks.recorder.Recorder", "kwargs": {"path": str(notes["order"])}},
    )
    end_marker = {
        "class": "callbacks.reasoning_parser.EndMarker",
        "kwargs": {"name": "end_marker", "marker": marker()},
    }
    parsers = {"reasoning_parser": "end_marker"}
    adapter = make_adapter(cluster.cai.folder / "adapter")
    lora = {"enable_lora": True, "lora_modules": [{"name": "tuned", "path": str(adapter)}]}
    thinks = spec_of("thinks", end_marker, args=parsers | lora)
    embeds = spec_of("embeds", args={"runner": "pooling", "convert": "embed"})
    # Two at a time: more engines at once only take turns on two cores.
    deploy_together(cluster, cluster.cai.write("http.yaml", thinks, embeds), ["thinks", "embeds"])
    theirs = cluster.cai.folder / "ray.yaml"
    theirs.write_text(yaml.safe_dump(ray_serve_llm_file(notes["theirs"])))
    cluster.cai.ok("model", "deploy", theirs, "--cluster", cluster.name, "--no-wait")
    deploy_together(cluster, cluster.cai.write("order.yaml", order), ["order", "theirs"])
    return notes


def make_adapter(folder: Path) -> Path:
    """A LoRA adapter of the demo model with weights that change every answer."""
    from safetensors.torch import save_file

    config = json.loads((model_dir() / "config.json").read_text())
    hidden, rank = config["hidden_size"], 8
    out = config["num_attention_heads"] * config["head_dim"]
    torch.manual_seed(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, hidden)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    lora = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(lora))
    return folder


def ray_serve_llm_file(notes: Path) -> dict[str, Any]:
    config = {
        "model_loading_config": {"model_id": "theirs", "model_source": str(model_dir())},
        "engine_kwargs": ARGS,
        "accelerator_config": {"kind": "cpu"},
        "callback_config": {
            "callback_class": "callbacks.theirs.Mine",
            "callback_kwargs": {"my_param": "value of ", "path": str(notes)},
        },
    }
    application = {
        "args": {"llm_configs": [config]},
        "import_path": "ray.serve.llm:build_openai_app",
        "name": "llm_app",
        "route_prefix": "/",
    }
    return {"applications": [application]}


def spec_of(name: str, *callbacks: dict[str, Any], **engine: Any) -> dict[str, Any]:
    args = ARGS | engine.pop("args", {})
    engine = {"type": "vllm", "args": args, **engine}
    return echo_spec(name, engine=engine, resources={"cpu": 1}, callbacks=list(callbacks))


def log_of(cluster: Cluster, name: str) -> str:
    return cluster.cai.ok("model", "logs", name, "--cluster", cluster.name).stdout


def test_order_arguments_and_a_model_from_outside_the_tree(
    cluster: Cluster, models: dict[str, Path]
) -> None:
    notes = models["order"]
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


def test_reasoning_parser(cluster: Cluster, models: dict[str, Path]) -> None:
    reply = cluster.client().chat.completions.create(
        model="thinks",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=64,
    )
    message = reply.choices[0].message.model_dump()
    before, _, after = plain_answer().partition(marker())
    assert message.get("reasoning", message.get("reasoning_content")) == before
    assert message["content"] == after


def marker() -> str:
    """A word that stands once in the answer."""
    answer = plain_answer()
    return next(word for word in answer.split() if answer.count(word) == 1 and len(word) > 3)


def plain_answer() -> str:
    from ray_serve_cai.demo.text import load_text

    return next(pair.answer for pair in load_text() if QUESTION in pair.questions)


def test_adapter(cluster: Cluster, models: dict[str, Path]) -> None:
    """The replica's own server has it; the gateway takes up the model's own name alone."""
    client = cluster.client()
    with pytest.raises(openai.NotFoundError):
        ask(client, "tuned")
    client.base_url = cluster.model("thinks")["engine_config"]["endpoint"] + "/v1"
    assert {"thinks", "tuned"} <= {model.id for model in client.models.list()}
    said = {
        name: client.completions.create(model=name, prompt=QUESTION, temperature=0, max_tokens=16)
        for name in ("thinks", "tuned")
    }
    assert said["tuned"].model == "tuned"
    assert said["tuned"].choices[0].text != said["thinks"].choices[0].text


def test_pooling(cluster: Cluster, models: dict[str, Path]) -> None:
    texts = [QUESTION, "What is Ray?"]
    reply = cluster.client().embeddings.create(model="embeds", input=texts)
    first, second = (item.embedding for item in reply.data)
    assert len(first) == len(second) == 128
    assert first != second
    assert reply.usage.prompt_tokens > 0


def test_ray_serve_llm_file_as_it_is(cluster: Cluster, models: dict[str, Path]) -> None:
    """With a class that is written for, and imports, Ray's own CallbackBase."""
    assert models["theirs"].read_text() == "value of theirs"
    assert ask(cluster.client(), "theirs", QUESTION, temperature=0, max_tokens=64)


def test_compile_cache(cluster: Cluster, tmp_path: Path) -> None:
    """The second engine finds in the store what the first one compiled."""
    store, cache = tmp_path / "store", cluster.cai.folder / "cache" / "compile"
    callback = {
        "class": "ray_serve_cai.callbacks.CompileCache",
        "kwargs": {"url": f"file://{store}"},
    }
    compiling = {"enforce_eager": False, "max_model_len": 256}
    spec = cluster.cai.write("compiles.yaml", spec_of("compiles", callback, args=compiling))
    deploy = ("model", "deploy", spec, "--cluster", cluster.name)
    cluster.cai.ok(*deploy, timeout=TOGETHER_SECONDS)
    until(lambda: list(store.glob("*/.cai/manifest.json")), 60, "the cache in the store")
    kernels = {path.name for path in store.rglob("*.so")}
    assert kernels
    cluster.delete("compiles")
    shutil.rmtree(cache)
    cluster.cai.ok(*deploy, timeout=TOGETHER_SECONDS)
    assert f"compile cache from file://{store}" in log_of(cluster, "compiles")
    assert {path.name for path in cache.rglob("*.so")} == kernels, "none was compiled anew"
    cluster.delete("compiles")
