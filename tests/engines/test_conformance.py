"""The kit passes on good engines, and names what is broken in each bad one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from broken import BROKEN, Base, LeavesAThread

from ray_serve_cai.engines import contract
from ray_serve_cai.engines.base import (
    GenerateContext,
    LLMEngine,
    LLMEngineOutput,
    PreprocessedRequest,
)
from ray_serve_cai.engines.conformance import FAILURES, EngineConformance, check_engine
from ray_serve_cai.engines.echo import EchoEngine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "SETTLE_SECONDS", 0.2)


class TestEcho(EngineConformance):
    def make(self) -> LLMEngine:
        return EchoEngine.from_args({"tokens_per_second": 500}, Path("/models/echo"))


class TestEchoAtFullSpeed(EngineConformance):
    def make(self) -> LLMEngine:
        return EchoEngine.from_args({}, Path("/models/echo"))


class Items:
    """Items of another stream, and nothing of a generator."""

    def __init__(self, stream: AsyncIterator[LLMEngineOutput]) -> None:
        self._stream = stream

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> LLMEngineOutput:
        return await anext(self._stream)


class GivesItems(EchoEngine):
    def generate(
        self, request: PreprocessedRequest, ctx: GenerateContext
    ) -> AsyncIterator[LLMEngineOutput]:
        return Items(super().generate(request, ctx))


class TestStreamThatIsNoGenerator(EngineConformance):
    def make(self) -> LLMEngine:
        return GivesItems.from_args({}, Path("/models/echo"))


@pytest.mark.parametrize(("name", "kind"), BROKEN, ids=lambda it: getattr(it, "__name__", it))
def test_broken(name: str, kind: type[Base]) -> None:
    found = {failure.name for failure in check_engine(kind.make)}
    if LeavesAThread.ends is not None:
        LeavesAThread.ends.set()
    assert found == {name}


def test_every_rule_has_an_engine_that_breaks_it() -> None:
    assert {name for name, _ in BROKEN} == set(FAILURES)


def test_a_broken_engine_fails_by_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from broken import OnlyOnce
        from ray_serve_cai.engines.conformance import EngineConformance

        class TestIt(EngineConformance):
            def make(self):
                return OnlyOnce.make()
        """
    )
    pytester.syspathinsert(Path(__file__).parent)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=len(FAILURES) - 1)
    result.stdout.fnmatch_lines(["FAILED *test_rule?second-cleanup*"])
