"""A model on SGLang: what is checked before anything starts, then the deployment.

    python docs/examples/sglang_deployment.py Qwen/Qwen3-8B

It needs a GPU and `pip install "ray-serve-cai[sglang]"` on the node that holds the replica.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from ray_serve_cai.errors import PlanError
from ray_serve_cai.ray_backend import RayBackend


def config(model: str, gpus: int) -> dict[str, Any]:
    """As many GPUs as the parallel sizes multiply to are reserved, unless `resources` says how
    many."""
    return {
        "model": model,
        "name": "on-sglang",
        "engine": "sglang",
        # SGLang's own names, without `--`.
        "tp_size": max(1, gpus),
        "mem_fraction_static": 0.85,
        "resources": {"cpu": 1, "gpu": gpus},
    }


async def main(model: str, gpus: int) -> None:
    backend = RayBackend()
    wanted = config(model, gpus)
    print(json.dumps(backend.document(wanted), indent=2))
    try:
        backend.document({**wanted, "mem_fraction_statik": 0.85})
    except PlanError as error:
        print(error)

    await backend.initialize_ray()
    try:
        row = await backend.start_model(wanted)
        print(f"{row['name']} is {row['state']} over {row['transport']} at {row['endpoint']}")
        await backend.stop_model(row["name"])
    finally:
        if "CAI_CLUSTER" not in os.environ:
            await backend.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(os.environ.get("GPUS", "1"))))
