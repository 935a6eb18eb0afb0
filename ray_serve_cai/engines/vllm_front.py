"""What clients of vLLM meet: over which transport, and by which server of it.

Nothing here imports vLLM: a plan must be quick, and must work where vLLM is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from ray_serve_cai.engines.vllm_args import front_args
from ray_serve_cai.errors import EngineError


def choose_transport(
    wanted: Literal["auto", "grpc", "http"], args: Mapping[str, Any]
) -> dict[Literal["grpc", "http"], str]:
    """The transport and why it is chosen."""
    if wanted != "auto":
        return {wanted: "the spec says so"}
    front_only = [name for name in args if name.replace("-", "_") in front_args()]
    if front_only:
        return {"http": f"engine.args.{front_only[0]} belongs to vLLM's own HTTP server"}
    if find_spec("vllm") is not None and find_spec("smg_grpc_servicer") is None:
        return {"http": "smg-grpc-servicer is not installed"}
    return {"grpc": "fastest: templates, tokenization and streaming run in the gateway"}


def servicer() -> str:
    """Which gRPC front the installed packages give: `rust` or `python`."""
    if find_spec("smg_grpc_servicer") is None:
        raise EngineError("CAI-ENGINE-002", 'the grpc transport needs "smg-grpc-servicer"')
    from smg_grpc_servicer.vllm.rust import upstream_hook_installed

    return "rust" if upstream_hook_installed() else "python"
