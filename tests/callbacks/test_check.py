from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ray_serve_cai.callbacks.check import check_callbacks, importable
from ray_serve_cai.spec import load_files

MODULE = """
class Plain:
    def __init__(self, path, retries=3): ...
class Anything:
    def __init__(self, **kwargs): ...
class CallbackBase:
    def __init__(self, llm_config, raise_error_on_callback=True, **kwargs): ...
class FromRay(CallbackBase):
    pass
class Strict(CallbackBase):
    def __init__(self, llm_config, raise_error_on_callback, *, needed): ...
def function(): ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").touch()
    (tmp_path / "callbacks" / "mine.py").write_text(MODULE)
    (tmp_path / "callbacks" / "broken.py").write_text("import nothing_of_this_name\n")
    return tmp_path


def check(project: Path, callback: str) -> list[str]:
    file = project / "f.yaml"
    file.write_text(f"kind: Model\nname: m\nsource: a/b\ncallbacks:\n  - {callback}\n")
    problems = check_callbacks(load_files([file], env={})[0])
    return [f"{it.line}:{it.column}: {it.key}: {it.message} [{it.code}]" for it in problems]


@pytest.mark.parametrize(
    "callback",
    [
        "{class: callbacks.mine.Plain, kwargs: {path: /tmp, retries: 1}}",
        "{class: 'callbacks.mine:Plain', kwargs: {path: /tmp}}",
        "{class: callbacks.mine.Anything, kwargs: {x: 1}}",
        "{class: callbacks.mine.FromRay, kwargs: {my_param: 1}}",
        "{class: callbacks.mine.Strict, kwargs: {needed: 1}}",
    ],
)
def test_callbacks_that_can_be_built(project: Path, callback: str) -> None:
    assert check(project, callback) == []


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (
            "{class: callbacks.mine.Plian, kwargs: {}}",
            '5:13: callbacks[0].class: "callbacks.mine.Plian": "callbacks.mine" has no "Plian"; '
            'did you mean "Plain"? [CAI-SPEC-010]',
        ),
        (
            "{class: nothing.There}",
            '5:13: callbacks[0].class: "nothing.There": there is no package or module "nothing" '
            "[CAI-SPEC-010]",
        ),
        (
            "{class: callbacks.broken.X}",
            '5:13: callbacks[0].class: "callbacks.broken.X": importing "callbacks.broken" failed: '
            'no module "nothing_of_this_name" [CAI-SPEC-010]',
        ),
        (
            "{class: callbacks.mine.function}",
            '5:13: callbacks[0].class: "callbacks.mine.function" is not a class [CAI-SPEC-010]',
        ),
        (
            "{class: callbacks.mine.Plain, kwargs: {path: a, retires: 1}}",
            "5:53: callbacks[0].kwargs.retires: Plain takes no such argument; "
            'did you mean "retries"? [CAI-SPEC-003]',
        ),
        (
            "{class: callbacks.mine.Plain}",
            '5:5: callbacks[0].kwargs: Plain needs "path" [CAI-SPEC-004]',
        ),
        (
            "{class: callbacks.mine.Strict, kwargs: {}}",
            '5:44: callbacks[0].kwargs: Strict needs "needed" [CAI-SPEC-004]',
        ),
    ],
)
def test_callbacks_that_cannot(project: Path, callback: str, expected: str) -> None:
    assert check(project, callback) == [expected]


def test_two_projects_may_have_the_same_package(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "callbacks").mkdir(parents=True)
    (other / "callbacks" / "theirs.py").write_text("class Theirs: ...\n")
    assert check(project, "{class: callbacks.mine.Anything}") == []
    assert check(other, "{class: callbacks.theirs.Theirs}") == []
    assert not [name for name in sys.modules if name.split(".")[0] == "callbacks"]


def test_the_import_path_is_put_back(tmp_path: Path) -> None:
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path[0] == str(tmp_path)
    assert sys.path == before
