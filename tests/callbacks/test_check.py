from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_serve_cai.callbacks.build import resolve_class
from ray_serve_cai.callbacks.check import check_callbacks, importable
from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec import load_files

MODULE = """
class Plain:
    def __init__(self, path, retries=3): ...
    def on_ready(self): ...
class Anything:
    def __init__(self, **kwargs): ...
    def on_ready(self): ...
class CallbackBase:
    def __init__(self, llm_config, raise_error_on_callback=True, **kwargs): ...
class FromRay(CallbackBase):
    def on_ready(self): ...
class Strict(CallbackBase):
    def __init__(self, llm_config, raise_error_on_callback, *, needed): ...
    def on_ready(self): ...
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
            '5:13: callbacks[0].class: "callbacks.mine.Plian": module "callbacks.mine" has no '
            '"Plian"; did you mean "Plain"? [CAI-SPEC-010]',
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
    (other / "callbacks" / "theirs.py").write_text("class Theirs:\n    def on_ready(self): ...\n")
    assert check(project, "{class: callbacks.mine.Anything}") == []
    assert check(other, "{class: callbacks.theirs.Theirs}") == []
    assert not [name for name in sys.modules if name.split(".")[0] == "callbacks"]


def test_the_import_path_is_put_back(tmp_path: Path) -> None:
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path[0] == str(tmp_path)
    assert sys.path == before


HOOKS = """
from ray_serve_cai.callbacks import CallbackBase
class Misspelt:
    def on_pre_donwload(self, ctx): ...
class Strange:
    def on_full_moon(self): ...
class NotCallable:
    on_ready = "yes"
class Empty: ...
class Inherits(CallbackBase): ...
class Good(CallbackBase):
    on_time = 3
    def __init__(self, *, size=1, **kwargs): super().__init__(**kwargs)
    async def on_before_node_init(self): ...
class Narrow(CallbackBase):
    def __init__(self, size=1): ...
    async def on_before_node_init(self): ...
class Greedy:
    def on_ready(self, ctx, more, *, flag, fine=1): ...
class AsMuchAsThereIs:
    def on_ready(self, ctx, more=2): ...
    def on_failure(self, ctx, error): ...
class ByPosition:
    def __init__(self, size, /): ...
    def on_ready(self): ...
"""


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        ("{class: callbacks.hooks.Good, kwargs: {size: 2, more: 3}}", None),
        (
            "{class: callbacks.hooks.Misspelt}",
            'Misspelt.on_pre_donwload is no hook; did you mean "on_pre_download"?',
        ),
        (
            "{class: callbacks.hooks.Strange}",
            "Strange.on_full_moon is no hook; see docs/callbacks.md",
        ),
        (
            "{class: callbacks.hooks.NotCallable}",
            "NotCallable.on_ready cannot be called, so it never runs",
        ),
        ("{class: callbacks.hooks.Empty}", "Empty defines no hook, so it never runs"),
        ("{class: callbacks.hooks.Inherits}", "Inherits defines no hook, so it never runs"),
        (
            "{class: callbacks.hooks.Narrow}",
            'Narrow must take "llm_config", "raise_error_on_callback", or **kwargs',
        ),
        (
            "{class: callbacks.hooks.Greedy}",
            "Greedy.on_ready needs more, flag; it is given the context at most",
        ),
        ("{class: callbacks.hooks.AsMuchAsThereIs}", None),
        ("{class: callbacks.hooks.ByPosition}", 'ByPosition needs "size"'),
        (
            "{class: callbacks.hooks.Good, kwargs: {llm_config: x}}",
            "Good takes no such argument",
        ),
    ],
)
def test_hooks_and_constructors(project: Path, callback: str, expected: str | None) -> None:
    (project / "callbacks" / "hooks.py").write_text(HOOKS)
    found = check(project, callback)
    if expected is None:
        assert found == []
    else:
        assert [expected in message for message in found] == [True], found


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[a-z]{1,9}([.:][A-Za-z_é]{1,9}){0,4}")))
def test_any_text_is_a_class_or_a_spec_error(text: str) -> None:
    path = f"json.{text}"
    found, refused = None, None
    try:
        found = resolve_class(path)
    except SpecError as error:
        refused = error
    assert isinstance(found, type) or (refused and f'"{path}"' in refused.message)
