from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from ray_serve_cai.errors import SpecProblems
from ray_serve_cai.spec import MAPPING, Document, ModelSpec, ReplicaRange, load_files
from ray_serve_cai.spec.ray_llm import is_ray_llm

# The YAML of the callbacks guide (seed 002), as it stands there.
GUIDE = """\
applications:
- args:
    llm_configs:
        - model_loading_config:
            model_id: my-model
            model_source: org/model-name
          callback_config:
            callback_class: my_module.MyCallback
            callback_kwargs:
              my_param: value
  import_path: ray.serve.llm:build_openai_app
  name: llm_app
  route_prefix: "/"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, **env: str) -> list[Document]:
    Path("f.yaml").write_text(text)
    return load_files(["f.yaml"], env=env)


def config(text: str) -> str:
    """A file with one llm_config that holds `text` beside its model_id."""
    head = (
        "applications:\n- args:\n    llm_configs:\n    - model_loading_config: {model_id: a/b}\n"
    )
    return head + textwrap.indent(textwrap.dedent(text), " " * 6)


def model(text: str, **env: str) -> ModelSpec:
    return load(config(text), **env)[0].model


def faults(text: str) -> list[str]:
    with pytest.raises(SpecProblems) as caught:
        load(text)
    return [
        f"{it.code}: {it.key.rpartition('].')[2]}: {it.message}" for it in caught.value.problems
    ]


def test_the_example_of_the_guide() -> None:
    document = load(GUIDE)[0]
    assert document.model == ModelSpec.model_validate(
        {
            "name": "my-model",
            "source": "org/model-name",
            "engine": {"type": "vllm"},
            "callbacks": [{"class": "my_module.MyCallback", "kwargs": {"my_param": "value"}}],
        }
    )
    assert document.notes == (
        "applications[0].name is ignored: every model is an application of its own",
    )


def test_every_setting_that_is_mapped() -> None:
    spec = model(
        """
        llm_engine: vLLM
        accelerator_type: L4
        engine_kwargs: {tensor_parallel_size: "${TP}", pipeline_parallel_size: 2, max_model_len: 9}
        deployment_config:
          autoscaling_config:
            min_replicas: 0
            max_replicas: 4
            target_ongoing_requests: 32
            downscale_to_zero_delay_s: 60
            upscale_delay_s: 1
          ray_actor_options: {num_cpus: 3, memory: 1000000, num_gpus: null}
          max_ongoing_requests: 64
        runtime_env:
          env_vars: {HF_TOKEN: "${HF_TOKEN}", N: 1}
        callback_config:
          callback_class: a.B
          raise_error_on_callback: false
        log_engine_metrics: true
        """.replace('"${TP}"', "2"),
        HF_TOKEN="hf_abc",
    )
    assert spec.engine.type == "vllm"
    assert spec.engine.args["tensor_parallel_size"] == 2
    assert (spec.resources.cpu, spec.resources.gpu, spec.resources.memory) == (3, 4, 1_000_000)
    assert isinstance(spec.replicas, ReplicaRange)
    assert (spec.replicas.min, spec.replicas.max) == (0, 4)
    assert spec.replicas.target_ongoing_requests == 32
    assert spec.replicas.idle_after == 60
    assert spec.env == {"HF_TOKEN": "hf_abc", "N": "1"}
    assert spec.callbacks[0].on_error == "log"


def test_variables_decide_on_gpus_and_stay_in_the_raw_document() -> None:
    text = "accelerator_type: L4\nengine_kwargs:\n  tensor_parallel_size: ${TP}\n"
    document = load(config(text), TP="4")[0]
    assert document.model.resources.gpu == 4
    assert document.raw["engine"]["args"]["tensor_parallel_size"] == "${TP}"


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("engine_kwargs: {tensor_parallel_size: 2}", 0),
        ("accelerator_type: H100", 1),
        ("accelerator_config: {kind: gpu}", 1),
        ("accelerator_config: {kind: cpu}\naccelerator_type: L4", 0),
        ("placement_group_config: {bundles: [{CPU: 1, GPU: 1}, {GPU: 1}], strategy: PACK}", 2),
        (
            "placement_group_config: {bundle_per_worker: {GPU: 1}}\n"
            "engine_kwargs: {tensor_parallel_size: 3}",
            3,
        ),
        ("deployment_config: {ray_actor_options: {num_gpus: 2}}", 2),
    ],
)
def test_gpus(text: str, gpus: int) -> None:
    assert model(text).resources.gpu == gpus


@pytest.mark.parametrize(
    ("text", "replicas"),
    [
        ("{}", 1),
        ("deployment_config: {num_replicas: 3}", 3),
        ("deployment_config: {num_replicas: auto}", (1, 100)),
        ("deployment_config: {autoscaling_config: {max_replicas: 5}}", (1, 5)),
        (
            "deployment_config: {num_replicas: auto, autoscaling_config: {min_replicas: 2}}",
            (2, 100),
        ),
    ],
)
def test_replicas(text: str, replicas: object) -> None:
    found = model("" if text == "{}" else text).replicas
    assert (found if isinstance(found, int) else (found.min, found.max)) == replicas


def test_sources() -> None:
    text = "llm_configs:\n- model_loading_config: {model_id: a/b}\n"
    assert load(text)[0].model.source == "a/b"
    text = (
        "args:\n  llm_configs:\n  - model_loading_config:\n      model_id: x\n"
        "      model_source: {bucket_uri: s3://b/m}\n      tokenizer_source: org/tok\n"
    )
    spec = load(text)[0].model
    assert spec.source == "s3://b/m"
    assert spec.engine.args == {"tokenizer": "org/tok"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora_config: {x: 1}", "CAI-SPEC-009: lora_config: LoRA adapters cannot be loaded"),
        ("server_cls: a.B", "CAI-SPEC-009: server_cls: another server class cannot be used"),
        ("llm_engine: SGLang", 'CAI-SPEC-009: llm_engine: only vLLM can be used, not "SGLang"'),
        ("foo: 1", "CAI-SPEC-009: foo: this setting has no counterpart"),
        (
            "runtime_env: {pip: [x]}",
            "CAI-SPEC-009: runtime_env.pip: packages and files belong on the nodes before a model "
            "is deployed",
        ),
        ("runtime_env: 3", "CAI-SPEC-004: runtime_env: must be a mapping"),
        (
            "deployment_config: {user_config: {a: 1}}",
            "CAI-SPEC-009: deployment_config.user_config: this setting has no counterpart",
        ),
        (
            "deployment_config: {num_replicas: 2, autoscaling_config: {max_replicas: 3}}",
            "CAI-SPEC-009: deployment_config.num_replicas: cannot stand beside autoscaling_config",
        ),
        (
            "deployment_config: {ray_actor_options: {resources: {x: 1}}}",
            "CAI-SPEC-009: deployment_config.ray_actor_options.resources: this setting has no "
            "counterpart",
        ),
        (
            "placement_group_config: {strategy: SPREAD}",
            "CAI-SPEC-009: placement_group_config.strategy: only PACK and STRICT_PACK can be "
            "used; a replica lies on one node",
        ),
        (
            "placement_group_config: {bundles: [{TPU: 1}]}",
            "CAI-SPEC-009: TPU: this resource has no counterpart",
        ),
        (
            "placement_group_config: {bundles: [{CPU: two}]}",
            "CAI-SPEC-004: CPU: must be a number, 0 or more",
        ),
        ("placement_group_config: {bundles: 3}", "CAI-SPEC-004: bundles: must be a list"),
        (
            "accelerator_config: {kind: tpu}",
            "CAI-SPEC-009: accelerator_config.kind: only gpu and cpu can be used",
        ),
        (
            "callback_config: {callback_kwargs: {a: 1}}",
            "CAI-SPEC-004: callback_config.callback_class: the key is missing",
        ),
        (
            "callback_config: {callback_class: a.B, raise_error_on_callback: 'no'}",
            "CAI-SPEC-004: callback_config.raise_error_on_callback: must be true or false",
        ),
        (
            "deployment_config: {num_replicas: -1}",
            "CAI-SPEC-004: deployment_config.num_replicas: must be 0 or more, not -1",
        ),
        ("accelerator_type: ${NOT_SET}", "CAI-SPEC-005: accelerator_type: the variable NOT_SET"),
    ],
)
def test_settings_that_are_refused(text: str, expected: str) -> None:
    found = faults(config(text))
    assert len(found) == 1
    key = expected.split(": ")[1]
    assert found[0].replace(f": placement_group_config.{key}", f": {key}").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("applications: 3", "CAI-SPEC-004: applications: must be a list with at least one entry"),
        ("applications: []", "CAI-SPEC-004: applications: must be a list with at least one entry"),
        ("applications: [3]", "CAI-SPEC-004: applications[0]: must be a mapping"),
        ("applications: [{}]", "CAI-SPEC-004: args: must be a mapping with llm_configs"),
        ("args: {}", "CAI-SPEC-004: args.llm_configs: must be a list with at least one entry"),
        (
            "llm_configs: [other.yaml]",
            "CAI-SPEC-009: llm_configs[0]: other files are not read; write the settings here",
        ),
        (
            "llm_configs: [{engine_kwargs: {}}]",
            "CAI-SPEC-004: model_loading_config.model_id: the key is missing",
        ),
        (
            "applications: [{import_path: a:b, args: {llm_configs: [{model_loading_config: "
            "{model_id: a/b}}]}}]",
            "CAI-SPEC-009: import_path: only ray.serve.llm:build_openai_app can be used",
        ),
        (
            "applications: [{route_prefix: /x, args: {llm_configs: [{model_loading_config: "
            "{model_id: a/b}}]}}]",
            "CAI-SPEC-009: route_prefix: only / can be used; the gateway routes by model",
        ),
        (
            "applications: [{args: {ingress_cls_config: {a: 1}, llm_configs: "
            "[{model_loading_config: {model_id: a/b}}]}}]",
            "CAI-SPEC-009: args.ingress_cls_config: the gateway is the ingress",
        ),
    ],
)
def test_files_that_are_refused(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_faults_keep_their_place_and_their_key() -> None:
    Path("f.yaml").write_text(config("engine_kwargs: 3\n"))
    with pytest.raises(SpecProblems) as caught:
        load_files(["f.yaml"], env={})
    assert str(caught.value) == (
        "f.yaml:5:22: applications[0].args.llm_configs[0].engine_kwargs: must be a mapping, not 3"
    )


def test_one_model_in_two_applications() -> None:
    one = "- args: {llm_configs: [{model_loading_config: {model_id: a/b}}]}\n"
    assert faults("applications:\n" + one + one)[0].startswith(
        "CAI-SPEC-006: model_loading_config.model_id: there is another Model"
    )


def test_what_is_ignored_is_said_at_its_model() -> None:
    other = "- model_loading_config: {model_id: c/d}\n"
    text = "llm_configs:\n- model_loading_config: {model_id: a/b}\n  log_engine_metrics: true\n"
    first, second = load(text + other)
    assert [note.split(" is ignored: ")[0] for note in first.notes] == [
        "llm_configs[0].log_engine_metrics"
    ]
    assert second.notes == ()


def test_only_files_without_kind_are_taken_for_ray_files() -> None:
    assert is_ray_llm({"applications": []})
    assert not is_ray_llm({"kind": "Model", "args": {}})
    assert not is_ray_llm([1])


def test_the_table_names_every_setting_once() -> None:
    keys = [(row.scope, row.key) for row in MAPPING]
    assert len(keys) == len(set(keys))
    assert all(row.note for row in MAPPING if row.fate != "mapped")
