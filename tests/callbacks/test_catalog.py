"""What `cai callbacks list` and `show` say, from modules that may be broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ray_serve_cai.callbacks import catalog
from ray_serve_cai.callbacks.catalog import Listed, describe, list_callbacks, of_project
from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec import load_files

MINE = '''
from dataclasses import dataclass
from ray_serve_cai.callbacks import CallbackBase, CallbackCtx

class Mine:
    """Does this.

    And that.
    """
    def __init__(self, path, retries=3, *, api_key="hunter22"): ...
    def on_pre_download(self, ctx): ...
    def on_ready(self): ...

class OfFamily(CallbackBase):
    def on_after_node_init(self): ...

class NoHooks: ...
class _Private:
    def on_ready(self): ...
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "callbacks"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    return tmp_path


def test_public_classes_with_hooks_of_the_project(project: Path) -> None:
    assert of_project(project) == [
        Listed(
            "callbacks.mine.Mine",
            "Does this.",
            "callbacks/mine.py",
            ("on_pre_download", "on_ready"),
            ("path", "retries=3", "api_key=***"),
        ),
        Listed(
            "callbacks.mine.OfFamily",
            "",
            "callbacks/mine.py",
            ("on_after_node_init",),
            ("**kwargs",),
        ),
    ]
    assert "callbacks.mine" not in sys.modules


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class X(", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_does_not_import_is_a_row(project: Path, code: str, says: str) -> None:
    (project / "callbacks" / "broken.py").write_text(code)
    broken, *others = of_project(project)
    assert broken.path == "callbacks.broken"
    assert broken.summary.startswith(f"cannot be imported: {says}")
    assert (broken.hooks, broken.kwargs) == ((), ())
    assert [row.path for row in others] == ["callbacks.mine.Mine", "callbacks.mine.OfFamily"]


def test_a_file_that_no_path_can_name(project: Path) -> None:
    (project / "callbacks" / "my-own.py").write_text("class A:\n    def on_ready(self): ...\n")
    assert of_project(project)[-1].summary == "no dotted path can name a file that is called so"


def test_built_in_and_no_project(tmp_path: Path) -> None:
    downloader, cache = list_callbacks(tmp_path)
    assert downloader.path == "ray_serve_cai.callbacks.CloudDownloader"
    assert downloader.source == cache.source == "built in"
    assert downloader.hooks == ("on_before_download_model_files_distributed",)
    assert downloader.kwargs == ("paths", "storage_options=None", "**kwargs")
    assert cache.path == "ray_serve_cai.callbacks.CompileCache"
    assert cache.hooks == ("on_pre_engine_init", "on_ready", "on_shutdown")


def test_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("b", "not_installed_here:Thing", catalog.GROUP),
        EntryPoint("a", "ray_serve_cai.callbacks.examples:MetricsCallback", catalog.GROUP),
    ]
    asked: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return points

    monkeypatch.setattr(catalog, "entry_points", entry_points)
    missing, there = list_callbacks(tmp_path)[2:]
    assert asked == ["ray_serve_cai.callbacks"]
    assert 'there is no module "not_installed_here"' in missing.summary
    assert there.path == "ray_serve_cai.callbacks.examples:MetricsCallback"
    assert there.source == "an installed package"
    assert there.kwargs == ("output_path",)


def test_those_of_a_model_spec_without_its_secrets(project: Path) -> None:
    file = project / "m.yaml"
    file.write_text(
        "kind: Model\nname: m\nsource: a/b\ncallbacks:\n"
        "  - {class: callbacks.mine.Mine, kwargs: {path: /a, api_key: hunter22}}\n"
        "  - {class: callbacks.mine.Gone}\n"
    )
    mine, gone = list_callbacks(Path("/nowhere"), load_files([file], env={}))[2:]
    assert (mine.path, mine.source) == ("callbacks.mine.Mine", str(file))
    assert mine.hooks == ("on_pre_download", "on_ready")
    assert mine.kwargs == ("path='/a'", "api_key='***'")
    assert 'has no "Gone"' in gone.summary


def test_describe() -> None:
    found = describe("ray_serve_cai.callbacks.examples.CustomPlacementGroupCallback")
    assert found["constructor"] == "CustomPlacementGroupCallback(num_gpus=4)"
    assert found["doc"] == "Reserves one bundle with all the GPUs."
    assert found["hooks"] == [
        {
            "name": "on_pre_placement_group",
            "point": "before placement",
            "where": "deploying side",
            "false_skips": "the default placement",
        }
    ]
    assert found["faults"] == []


def test_describe_what_is_no_callback() -> None:
    assert describe("ray_serve_cai.callbacks.LLMConfig")["faults"] == [
        "LLMConfig defines no hook, so it never runs"
    ]
    with pytest.raises(SpecError, match="is not a class"):
        describe("ray_serve_cai.callbacks.initialize_node")
