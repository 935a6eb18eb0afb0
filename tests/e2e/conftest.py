"""One cluster with the demo model on real vLLM over both transports, for several files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import Cai, Cluster, deploy_together, echo_spec, short_folder

KEY = "sk-e2e-0123456789abcdef"
# So few at once that a test can fill the engine.
SLOTS = 2
ARGS = {"max_model_len": 1024, "enforce_eager": True, "max_num_seqs": SLOTS}
TRANSPORTS = ("grpc", "http")


@pytest.fixture(scope="session")
def real() -> Iterator[Cluster]:
    """The models `grpc` and `http`; taken down at the end without a trace."""
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_API_KEY": KEY})
        gateway = {"port": "auto", "api_keys": ["${CAI_API_KEY}"]}
        try:
            made = Cluster.up(cai, "real", KEY, head={"cpu": 2}, gateway=gateway)
            specs = cai.write("models.yaml", *(_spec(transport) for transport in TRANSPORTS))
            deploy_together(made, specs, TRANSPORTS)
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


def _spec(transport: str) -> dict[str, Any]:
    engine = {"type": "vllm", "transport": transport, "args": ARGS}
    return echo_spec(transport, engine=engine, resources={"cpu": 1})


@pytest.fixture(params=TRANSPORTS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def client(real: Cluster) -> Any:
    return real.client()
