"""One model on vLLM from asynchronous Python: start, ask, stop.

    python docs/examples/basic_vllm.py

The model is the package's demo model, which runs on a small CPU; put a hub id, a path or a URL in
its place. With CAI_CLUSTER the model goes to that cluster, else to one that ends with the program.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx

from ray_serve_cai.ray_backend import RayBackend

CONFIG = {
    "model": "builtin:demo",
    "name": "basic-vllm",
    # Arguments of vLLM under its own names; one that it does not have is refused at once.
    "max_model_len": 1024,
    "enforce_eager": True,
    "resources": {"cpu": 1},
}
QUESTION = "What is cai?"


async def ask(endpoint: str, model: str, question: str) -> str:
    """Any OpenAI client does; this is the request itself."""
    message = {"role": "user", "content": question}
    body: dict[str, Any] = {"model": model, "messages": [message], "max_tokens": 64}
    body["temperature"] = 0
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        reply = await client.post(f"{endpoint}/chat/completions", json=body)
    answer: str = reply.raise_for_status().json()["choices"][0]["message"]["content"]
    return answer


async def main() -> None:
    backend = RayBackend()
    await backend.initialize_ray()
    try:
        model = await backend.start_model(CONFIG)
        print(f"{model['name']} is {model['state']} at {model['endpoint']}")
        print(await ask(model["endpoint"], model["name"], QUESTION))
        await backend.stop_model(model["name"])
    finally:
        if "CAI_CLUSTER" not in os.environ:
            await backend.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
