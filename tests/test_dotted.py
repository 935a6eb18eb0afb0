from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_serve_cai.dotted import resolve
from ray_serve_cai.errors import SpecError

# Without letters that could spell a module whose import does something.
WORDS = st.sampled_from(
    ["pathlib", "Path", "json", "decoder", "JSONDecoder", "cwd", "x", "", "é", "_", "1", " ", "\n"]
)
PART = st.from_regex(r"[A-Za-z_\xe0-\xff][A-Za-z0-9_\xe0-\xff]{0,9}", fullmatch=True)
PATHS = st.lists(st.tuples(st.sampled_from(".:"), PART), min_size=1, max_size=5).map(
    lambda parts: "".join(mark + word for mark, word in parts)
)
NAMES = st.one_of(
    st.text(alphabet=".: \n\tAzé_0/\\\x00", max_size=12),
    st.lists(st.tuples(WORDS, st.sampled_from([".", ":", ""])), max_size=5).map(
        lambda parts: "".join(word + mark for word, mark in parts)
    ),
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "shelf"
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def message(path: str) -> str:
    with pytest.raises(SpecError) as caught:
        resolve(path)
    assert caught.value.code == "CAI-SPEC-010"
    return caught.value.message


@pytest.mark.parametrize("path", ["pathlib:Path", "pathlib.Path"])
def test_class(path: str) -> None:
    assert resolve(path) is pathlib.Path


@pytest.mark.parametrize("path", ["pathlib:Path.cwd", "pathlib.Path.cwd"])
def test_attribute_of_a_class(path: str) -> None:
    assert resolve(path) == pathlib.Path.cwd


@pytest.mark.parametrize(
    "path", ["", ".", ":", "Path", "pathlib:", ":Path", "a..b", "a b.c", "1a.b", "pathlib:a:b"]
)
def test_malformed(path: str) -> None:
    assert message(path) == f'"{path}" is not a dotted path such as package.module.Class'


def test_missing_package() -> None:
    assert message("nowhere.Class") == '"nowhere.Class": there is no package or module "nowhere"'


def test_missing_module_before_a_colon() -> None:
    assert message("json.nowhere:Class") == (
        '"json.nowhere:Class": there is no module "json.nowhere"'
    )


def test_missing_attribute() -> None:
    assert message("pathlib.Pth") == (
        '"pathlib.Pth": module "pathlib" has no "Pth"; did you mean "Path"?'
    )


def test_missing_attribute_of_a_class() -> None:
    assert message("pathlib:Path.cdw") == (
        '"pathlib:Path.cdw": class "Path" has no "cdw"; did you mean "cwd"?'
    )


def test_missing_module_of_a_package() -> None:
    assert message("json.decodr.JSONDecoder") == (
        '"json.decodr.JSONDecoder": package "json" has no module "decodr"; '
        'did you mean "decoder" or "encoder"?'
    )


def test_module_that_raises(package: Path) -> None:
    (package / "broken.py").write_text("raise RuntimeError('no luck')")
    assert message("shelf.broken.Class") == (
        '"shelf.broken.Class": importing "shelf.broken" failed: RuntimeError: no luck'
    )


def test_module_that_misses_another(package: Path) -> None:
    """Not "there is no module shelf.needy": that one is there."""
    (package / "needy.py").write_text("import not_installed_here")
    assert message("shelf.needy:Class") == (
        '"shelf.needy:Class": importing "shelf.needy" failed: no module "not_installed_here"'
    )


def test_module_with_an_error_of_syntax(package: Path) -> None:
    (package / "typo.py").write_text("class :")
    assert "SyntaxError" in message("shelf.typo.Class")


def test_cause_is_kept(package: Path) -> None:
    (package / "cause.py").write_text("1 / 0")
    with pytest.raises(SpecError) as caught:
        resolve("shelf.cause.Class")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_module_that_exits(package: Path) -> None:
    """A script named by mistake must not end `cai` without a word."""
    (package / "script.py").write_text("import sys; sys.exit(3)")
    assert "SystemExit" in message("shelf.script.Class")


def test_attribute_that_raises(package: Path) -> None:
    (package / "lazy.py").write_text("def __getattr__(name): raise RuntimeError('no luck')")
    assert "no luck" in message("shelf.lazy.Class")


@given(NAMES)
def test_any_text(path: str) -> None:
    """An object or a `SpecError`; any other exception fails here."""
    with contextlib.suppress(SpecError):
        assert resolve(path) is not None


@given(st.one_of(st.text(max_size=40), PATHS))
def test_any_text_below_a_module(rest: str) -> None:
    """What follows a module or class that is there can be anything as well."""
    for start in ("json", "json.decoder", "pathlib:Path", "pathlib.Path"):
        with contextlib.suppress(SpecError):
            assert resolve(f"{start}{rest}") is not None


@given(PATHS)
def test_what_is_missing_is_located(rest: str) -> None:
    path = f"nowhere{rest}"
    assert message(path).startswith(f'"{path}"')
    if rest.count(":") <= 1 and not rest.startswith(":"):
        assert '"nowhere"' in message(path) or "not a dotted path" in message(path)


def test_a_long_path() -> None:
    assert message("json" + f".{'x' * 300}" * 50).startswith('"json.xxx')
