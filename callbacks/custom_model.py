"""Serve a model whose class is not in vLLM's tree.

    callbacks:
      - class: callbacks.custom_model.CustomModel
        kwargs:
          architecture: MyModelForCausalLM
          model_class: callbacks.my_model:MyModelForCausalLM

`callbacks/my_model.py` is then a module of yours that imports vLLM and defines the class. The
engine takes it instead of the `architectures` of the model's config.json.
"""

from __future__ import annotations

from importlib.util import find_spec

from ray_serve_cai.callbacks import CallbackBase
from ray_serve_cai.engines.vllm_plugin import add_call


def register(architecture: str, model_class: str) -> None:
    """Tell the vLLM of this process; `model_class` is imported when the model is loaded."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(architecture, model_class)


class CustomModel(CallbackBase):
    """Registers `model_class`, written "module:Class", in every process of vLLM."""

    def __init__(self, *, architecture: str, model_class: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.architecture, self.model_class = architecture, model_class

    async def on_after_node_init(self) -> None:
        module, _, name = self.model_class.partition(":")
        # Not imported here: that would start CUDA before vLLM makes its own processes.
        if not name or find_spec(module) is None:
            raise ValueError(f'"{self.model_class}" does not name a class as "module:Class"')
        self.ctx.runtime_env = add_call(
            self.ctx.runtime_env,
            f"{register.__module__}:{register.__name__}",
            architecture=self.architecture,
            model_class=self.model_class,
        )
        given = self.llm_config.engine_kwargs.get("hf_overrides") or {}
        self.ctx.extra_init_kwargs["hf_overrides"] = {
            **given,
            "architectures": [self.architecture],
        }
