"""Loaded by vLLM in each of its processes (entry point group `vllm.general_plugins`)."""

from __future__ import annotations


def load() -> None:
    """Ask the kernel for the AMX tiles before vLLM's CPU attention uses them.

    Linux grants tile data per process and only on request (arch_prctl, ARCH_REQ_XCOMP_PERM).
    vLLM's attention picks its AMX variant from the CPU's flags alone, so a spawned worker that
    meets a short prompt before any larger matrix product dies of SIGILL (seen with vLLM 0.31).
    """
    import torch

    if not torch.cuda.is_available() and torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
