"""Which engine runs a model: that of the call, else of the configuration, else of the backend,
else the registry's default.

    python docs/examples/engine_selection.py
"""

from __future__ import annotations

import asyncio
import os

from ray_serve_cai.engines.registry import EngineInfo, get_registry, register_engine
from ray_serve_cai.errors import EngineError
from ray_serve_cai.ray_backend import RayBackend

CONFIG = {"model": "builtin:demo", "name": "selected", "resources": {"cpu": 0.5}}


async def main() -> None:
    for info in get_registry().list_engines():
        print(f"{info.name}: {info.summary}{'' if info.installed else ' (not installed)'}")

    # An engine of your own; replicas import it by this path.
    path = "ray_serve_cai.engines.echo:EchoEngine"
    register_engine(EngineInfo("parrot", path, "says what it is told"))

    backend = RayBackend(default_engine="echo")
    print("by default:", RayBackend().pick_engine(CONFIG).name)
    print("of the backend:", backend.pick_engine(CONFIG).name)
    print("of the configuration:", backend.pick_engine({**CONFIG, "engine": "sglang"}).name)
    print("of the call:", backend.pick_engine({**CONFIG, "engine": "sglang"}, "parrot").name)
    try:
        backend.pick_engine(CONFIG, "parot")
    except EngineError as error:
        print(error)

    await backend.initialize_ray()
    try:
        model = await backend.start_model(CONFIG, engine="parrot")
        print(f"{model['name']} runs on {model['engine']} over {model['transport']}")
        await backend.stop_model(model["name"])
    finally:
        if "CAI_CLUSTER" not in os.environ:
            await backend.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
