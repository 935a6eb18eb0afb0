from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import ray_serve_cai
from ray_serve_cai.errors import (
    CATALOGUE,
    CaiError,
    ClusterError,
    EngineError,
    ModelError,
    PlanError,
    Problem,
    SpecError,
    SpecProblems,
    StateError,
    StorageError,
)

PACKAGE = Path(ray_serve_cai.__file__).parent
CODE = re.compile(r"CAI-[A-Z]+-[0-9]{3}")
TREE = [
    CaiError,
    SpecError,
    PlanError,
    ClusterError,
    StateError,
    ModelError,
    EngineError,
    StorageError,
]


def codes_of_the_package() -> set[str]:
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "errors.py"]
    return {code for path in files for code in CODE.findall(path.read_text())}


def test_every_code_is_in_the_catalogue() -> None:
    assert codes_of_the_package() - set(CATALOGUE) == set()


def test_every_entry_of_the_catalogue_is_used() -> None:
    assert set(CATALOGUE) - codes_of_the_package() == set()


@pytest.mark.parametrize("code", CATALOGUE)
def test_entry(code: str) -> None:
    info = CATALOGUE[code]
    assert CODE.fullmatch(code)
    assert info.exit in (1, 2, 3, 4)
    for text in (info.cause, info.cure):
        assert text.endswith(".")
    assert not info.title.endswith(".")


def test_titles_are_unique() -> None:
    titles = [info.title for info in CATALOGUE.values()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("kind", TREE)
def test_crosses_processes(kind: type[CaiError]) -> None:
    error = kind("CAI-CLUSTER-003", "held", hint="wait", exit=7)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == "held"


def test_problems_cross_processes() -> None:
    problem = Problem("a.yaml", 7, 5, "head.cpu", "CAI-SPEC-004", "must be a number")
    back = pickle.loads(pickle.dumps(SpecProblems([problem])))
    assert back.problems == (problem,)
    assert str(back) == "a.yaml:7:5: head.cpu: must be a number"


def test_defaults_come_from_the_catalogue() -> None:
    error = CaiError("CAI-CLUSTER-006", "late")
    assert error.exit == 4
    assert error.hint == CATALOGUE["CAI-CLUSTER-006"].cure


def test_code_must_be_known() -> None:
    with pytest.raises(KeyError):
        CaiError("CAI-NONE-001", "?")
