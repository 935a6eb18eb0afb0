"""GPUs that vLLM takes for real ones only when it places workers; they compute on the CPU.

A platform plugin of vLLM, found where this folder is on `PYTHONPATH`. With nodes that have as many
GPUs by their spec, vLLM's Ray executor runs as on GPUs: a worker for each, in a bundle of its own.
"""

from vllm.platforms.cpu import CpuPlatform


class StandIn(CpuPlatform):
    ray_device_key = "GPU"


def register() -> str:
    return f"{__name__}.{StandIn.__name__}"
