"""Does an engine keep the contract of `engines.base`? A kit for anybody's tests.

    class TestMine(EngineConformance):
        def make(self) -> LLMEngine:
            return Mine.from_args({"served_model_name": "m"}, Path("/models/mine"))

Each rule is a test of its own that fails by the rule's name. One engine is started for all of
them, since a real one takes its time. `cai engines check PATH` does the same without pytest.
"""

from __future__ import annotations

import pytest

from ray_serve_cai.engines.base import LLMEngine
from ray_serve_cai.engines.contract import FAILURES, Failure, check_engine

__all__ = ["FAILURES", "EngineConformance", "Failure", "check_engine"]


class EngineConformance:
    """Base of a pytest class; `make` returns an engine that was not started."""

    def make(self) -> LLMEngine:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def failures(cls) -> list[Failure]:
        return check_engine(cls().make)

    @pytest.mark.parametrize("rule", FAILURES)
    def test_rule(self, rule: str, failures: list[Failure]) -> None:
        found = [failure.message for failure in failures if failure.name == rule]
        assert not found, f"{rule} ({FAILURES[rule]}): {'; '.join(found)}"
