"""`cai validate`, `cai schema` and `cai init`, through the boundary that users meet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_serve_cai.cli import init as init_module
from ray_serve_cai.cli.app import run

GOOD = "kind: Cluster\nname: good\n"
BAD = "kind: Model\nname: bad\nsource: a/b\nresorces: {}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("bad.yaml").write_text(BAD)


def test_validate_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "good.yaml", "bad.yaml", "none.yaml", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "schema": "cai/v1",
        "files": [
            {"path": "good.yaml", "ok": True, "errors": []},
            {
                "path": "bad.yaml",
                "ok": False,
                "errors": [
                    {
                        "line": 4,
                        "column": 1,
                        "key": "resorces",
                        "code": "CAI-SPEC-003",
                        "message": 'unknown key; did you mean "resources"?',
                    }
                ],
            },
            {
                "path": "none.yaml",
                "ok": False,
                "errors": [
                    {
                        "line": 1,
                        "column": 1,
                        "key": "",
                        "code": "CAI-SPEC-001",
                        "message": "there is no such file",
                    }
                ],
            },
        ],
    }


def test_validate_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "good.yaml", "bad.yaml"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "good.yaml: ok",
        'bad.yaml:4:1: resorces: unknown key; did you mean "resources"? [CAI-SPEC-003]',
    ]
    assert run(["validate", "good.yaml"]) == 0


def test_validate_takes_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "good.yaml", "--set", "head.cpu=x"]) == 2
    assert "(from --set head.cpu)" in capsys.readouterr().out
    assert run(["validate", "good.yaml", "--set", "head.cpu", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "CAI-CLI-001"


def test_validate_checks_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    Path("callbacks").mkdir()
    Path("callbacks/hooks.py").write_text(
        "class Hook:\n    def __init__(self, path): ...\n    def on_ready(self): ...\n"
    )
    Path("m.yaml").write_text(
        "kind: Model\nname: m\nsource: a/b\ncallbacks:\n"
        "  - {class: callbacks.hooks.Hook, kwargs: {path: x}}\n"
        "  - {class: callbacks.hooks.Hook, kwargs: {paths: x}}\n"
        "  - {class: callbacks.hooks.Hooks}\n"
    )
    assert run(["validate", "m.yaml", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)["files"][0]["errors"]
    assert [(error["key"], error["code"]) for error in found] == [
        ("callbacks[1].kwargs", "CAI-SPEC-004"),
        ("callbacks[1].kwargs.paths", "CAI-SPEC-003"),
        ("callbacks[2].class", "CAI-SPEC-010"),
    ]


def test_validate_says_what_a_ray_file_loses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(
        "llm_configs:\n- model_loading_config: {model_id: a/b}\n  log_engine_metrics: true\n"
    )
    assert run(["validate", "r.yaml", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["files"] == [{"path": "r.yaml", "ok": True, "errors": []}]
    assert "log_engine_metrics is ignored" in captured.err


@pytest.mark.parametrize("kind", ["cluster", "model"])
def test_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == f"cai {kind} spec"


def test_schema_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "other"]) == 2
    assert "CAI-CLI-001" in capsys.readouterr().err


def test_init_writes_what_validates(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "new/project", "--json"]) == 0
    captured = capsys.readouterr()
    files = json.loads(captured.out)["files"]
    assert "new/project/cluster_configs/models/demo.yaml" in files
    assert all(Path(file).is_file() for file in files)
    assert "cai cluster up new/project/cluster_configs/local.yaml" in captured.err
    assert run(["validate", "new/project/cluster_configs/local.yaml"]) == 0


def test_init_does_not_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cluster_configs").mkdir()
    mine = Path("cluster_configs/local.yaml")
    mine.write_text("mine")
    assert run(["init"]) == 1
    assert "CAI-CLI-004: cluster_configs/local.yaml" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert [path.name for path in Path("cluster_configs").iterdir()] == ["local.yaml"]
    assert run(["init", "--force"]) == 0
    assert mine.read_text() != "mine"


def test_init_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "good.yaml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_init_takes_package_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "ray_serve_cai"
    packed = package / "project" / "cluster_configs"
    packed.mkdir(parents=True)
    (packed / "only.yaml").write_text(GOOD)
    monkeypatch.setattr(init_module.resources, "files", lambda _name: package)
    assert run(["init", "out"]) == 0
    assert [path.name for path in Path("out/cluster_configs").iterdir()] == ["only.yaml"]
    assert init_module.shipped_folder("callbacks") is None
