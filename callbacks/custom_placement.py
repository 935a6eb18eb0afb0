"""Decide which bundles of resources a replica reserves, and how they lie on the nodes.

    callbacks:
      - class: callbacks.custom_placement.CustomPlacement
        kwargs: {num_gpus: 4, bundles: 2, strategy: SPREAD}

The hook runs on the deploying side before anything is reserved.
"""

from __future__ import annotations

from ray_serve_cai.callbacks import CallbackCtx


class CustomPlacement:
    """Reserves `bundles` equal bundles. `strategy`: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD."""

    def __init__(
        self,
        num_gpus: float = 1,
        num_cpus: float = 1,
        bundles: int = 1,
        strategy: str = "STRICT_PACK",
    ) -> None:
        amounts = {"CPU": num_cpus, "GPU": num_gpus}
        self.bundle = {name: amount for name, amount in amounts.items() if amount}
        self.bundles, self.strategy = bundles, strategy

    def on_pre_placement_group(self, ctx: CallbackCtx) -> bool:
        ctx.placement_group = {
            "bundles": [dict(self.bundle) for _ in range(self.bundles)],
            "strategy": self.strategy,
        }
        return False
