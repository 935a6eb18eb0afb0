"""Runs Ray Serve LLM in a Ray of its own until stdin closes; the order is a JSON line there."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ray_serve_cai.providers.processes import kill_marked

# More than a small machine has: its actors reserve CPUs that they do not use.
CPUS = 8


def main() -> None:
    order = json.loads(sys.stdin.readline())
    lifeline = threading.Thread(target=_end_with_parent, args=(Path(order["place"]),), daemon=True)
    lifeline.start()
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    ray.init(
        address="local",
        num_cpus=CPUS,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        _temp_dir=order["place"],
    )
    serve.start(http_options={"host": order["host"], "port": order["port"]})
    serve.run(build_openai_app({"llm_configs": [LLMConfig(**_config(order))]}), name="llm")
    lifeline.join()


def _end_with_parent(place: Path) -> None:
    """However far the start has come by then."""
    sys.stdin.read()
    kill_marked(place)
    os._exit(0)


def _config(order: dict[str, Any]) -> dict[str, Any]:
    """For CPUs: without a bundle of its own it would reserve a GPU."""
    return {
        "model_loading_config": {"model_id": order["model"], "model_source": order["folder"]},
        "engine_kwargs": order["args"],
        "deployment_config": {"num_replicas": 1},
        "placement_group_config": {"bundles": [{"CPU": 1}]},
    }


if __name__ == "__main__":
    main()
