"""The launcher asks the platform for groups, and in the rhythm of its polls, not for nodes."""

from __future__ import annotations

import os
import sys

from ray_serve_cai.bench.platform import measure_status, measure_up, workload
from ray_serve_cai.providers.cai_workers import CaiWorkersProvider

# A wait of one length costs less CPU than in proportion to the workers; more would be a launcher
# that looks at every worker in every poll, or at every pair.
FEW, MANY = 30, 300


def test_up_does_not_grow_with_workers_times_polls() -> None:
    with workload() as folder:
        few, many = (measure_up(folder, workers, late=1.0) for workers in (FEW, MANY))
    spent = [up["launch_cpu_ms"] + up["wait_cpu_ms"] for up in (few, many)]
    assert spent[1] < spent[0] * MANY / FEW
    for up in (few, many):
        assert up["calls"].pop("launch_workers") == 2, "one for the head, one for the group"
        polls = up["seconds"] / CaiWorkersProvider.list_seconds
        # Each of the two waits and of the two launch calls begins with one.
        assert up["calls"].pop("list_workers") <= polls + 4
        assert up["calls"] == {}
        assert up["looks"] > 1


def test_status_asks_once() -> None:
    before = dict(os.environ)
    with workload() as folder:
        status = measure_status(folder, 50)
    assert status["calls"] == {"list_workers": 1.0}
    assert dict(os.environ) == before
    assert "cml" not in sys.modules
