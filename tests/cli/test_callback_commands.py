"""`cai callbacks`, through the boundary that users meet, in a project of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.cli.app import run

HOOKS = '''
print("imported")

class Hook:
    """Changes things."""

    def __init__(self, word="a", api_key=None):
        self.word, self.api_key = word, api_key

    def on_pre_engine_init(self, ctx):
        print("hook runs")
        ctx.extra_init_kwargs["word"] = self.word
        ctx.custom_data["said"] = f"key {self.api_key}"
        ctx.runtime_env = {"env_vars": {"HF_TOKEN": "hidden"}}

    async def on_pre_initialization(self, ctx):
        return False

    def on_pre_download(self, ctx):
        ctx.custom_data["source"] = ctx.llm_config.model_source

    def on_post_download(self, ctx):
        raise ValueError(f"refused {self.api_key}")

    def on_failure(self, error):
        return [str(error), object]

    def on_drain(self):
        pass
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "hooks.py").write_text(HOOKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["callbacks", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found.pop("schema") == "cai/v1"
    return found


def error(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> dict[str, str]:
    assert run(["callbacks", *words, "--json"]) == status
    found: dict[str, str] = json.loads(capsys.readouterr().out)["error"]
    return found


class TestList:
    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = data(capsys, "list")["callbacks"]
        assert [row["path"] for row in rows] == [
            "ray_serve_cai.callbacks.CloudDownloader",
            "ray_serve_cai.callbacks.CompileCache",
            "callbacks.hooks.Hook",
        ]
        assert rows[2]["summary"] == "Changes things."
        assert rows[2]["source"] == "callbacks/hooks.py"
        assert rows[2]["kwargs"] == ["word='a'", "api_key=None"]
        assert "on_pre_engine_init" in rows[2]["hooks"]

    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["callbacks", "list"]) == 0
        captured = capsys.readouterr()
        assert "callbacks.hooks.Hook" in captured.out
        assert "imported" not in captured.out
        assert "imported" in captured.err

    def test_from_a_folder_below(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / "deep" / "down").mkdir(parents=True)
        monkeypatch.chdir(project / "deep" / "down")
        assert data(capsys, "list")["callbacks"][2]["path"] == "callbacks.hooks.Hook"

    def test_of_a_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("m.yaml").write_text(
            "kind: Model\nname: m\nsource: a/b\ncallbacks:\n"
            "  - {class: callbacks.hooks.Hook, kwargs: {word: x, api_key: 'secret-1'}}\n"
        )
        row = data(capsys, "list", "--model", "m.yaml")["callbacks"][3]
        assert (row["path"], row["source"]) == ("callbacks.hooks.Hook", "m.yaml")
        assert row["kwargs"] == ["word='x'", "api_key='***'"]

    def test_of_no_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert error(capsys, 2, "list", "--model", "none.yaml")["code"] == "CAI-SPEC-001"


class TestShow:
    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = data(capsys, "show", "callbacks.hooks.Hook")
        assert found["constructor"] == "Hook(word='a', api_key=None)"
        assert found["hooks"][0] == {
            "name": "on_pre_initialization",
            "point": "before anything",
            "where": "replica",
            "false_skips": "the download and the hooks around it",
        }

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["callbacks", "show", "callbacks.hooks.Hook"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Hook(word='a', api_key=None)\n\nChanges things.\n")
        assert "after download" in out

    def test_no_such_class(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = error(capsys, 2, "show", "callbacks.hooks.Hok")
        assert found["code"] == "CAI-SPEC-010"
        assert 'did you mean "Hook"?' in found["message"]


class TestCheck:
    @pytest.mark.parametrize(
        ("callback", "status"),
        [
            ("{class: callbacks.hooks.Hook}", 0),
            ("{class: callbacks.hooks.Hook, kwargs: {wrod: x}}", 2),
        ],
    )
    def test_is_validate(
        self, callback: str, status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("m.yaml").write_text(
            f"kind: Model\nname: m\nsource: a/b\ncallbacks:\n  - {callback}\n"
        )
        assert run(["callbacks", "check", "m.yaml", "--json"]) == status
        here = capsys.readouterr().out
        assert run(["validate", "m.yaml", "--json"]) == status
        assert capsys.readouterr().out == here
        assert json.loads(here)["files"][0]["ok"] is (status == 0)

    def test_takes_overrides(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("m.yaml").write_text("kind: Model\nname: m\nsource: a/b\n")
        assert run(["callbacks", "check", "m.yaml", "--set", "replicas=x"]) == 2
        assert "(from --set replicas)" in capsys.readouterr().out


class TestRun:
    def test_changes_without_secrets(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["callbacks", "run", "callbacks.hooks.Hook", "--hook", "on_pre_engine_init"]
        kwargs = '{"word": "b", "api_key": "secret-1"}'
        assert run([*words, "--kwargs", kwargs, "--json"]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert found["returned"] is None
        assert found["skips"] is None
        assert found["changed"] == [
            {
                "field": "runtime_env",
                "before": None,
                "after": {"env_vars": {"HF_TOKEN": "***"}},
            },
            {"field": "extra_init_kwargs", "before": {}, "after": {"word": "b"}},
            {"field": "custom_data", "before": {}, "after": {"said": "key ***"}},
        ]
        assert "hook runs" in captured.err

    def test_variables(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MY_TOKEN", "secret-2")
        words = ["run", "callbacks.hooks.Hook", "--hook", "on_pre_engine_init", "--kwargs"]
        found = data(capsys, *words, '{"word": "a ${MY_TOKEN}"}')
        assert found["changed"][1]["after"] == {"word": "a ***"}
        failed = error(capsys, 2, *words, '{"word": "${NOT_SET_HERE}"}')
        assert failed["code"] == "CAI-SPEC-005"
        assert failed["message"].startswith("--kwargs: word: ")

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["callbacks", "run", "callbacks.hooks.Hook", "--hook"]
        assert run([*words, "on_pre_engine_init"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "on_pre_engine_init returned null",
            'ctx.runtime_env: null -> {"env_vars": {"HF_TOKEN": "***"}}',
            'ctx.extra_init_kwargs: {} -> {"word": "a"}',
            'ctx.custom_data: {} -> {"said": "key None"}',
        ]
        assert run([*words, "on_drain"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "on_drain returned null",
            "the context is as it was",
        ]

    def test_what_false_skips(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["run", "callbacks.hooks.Hook", "--hook", "on_pre_initialization"]
        found = data(capsys, *words)
        assert found["returned"] is False
        assert found["skips"] == "the download and the hooks around it"

    def test_on_failure_gets_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = data(capsys, "run", "callbacks.hooks.Hook", "--hook", "on_failure")
        assert found["returned"] == ["made up for this run", "<class 'object'>"]

    def test_source(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["run", "callbacks.hooks.Hook", "--hook", "on_pre_download"]
        (changed,) = data(capsys, *words)["changed"]
        assert Path(changed["after"]["source"], "config.json").is_file()
        (project / "weights").mkdir()
        (changed,) = data(capsys, *words, "--source", "weights")["changed"]
        assert changed["after"]["source"] == str(project / "weights")
        assert error(capsys, 2, *words, "--source", "none")["code"] == "CAI-STORAGE-001"

    @pytest.mark.parametrize("flags", [[], ["--debug"], ["-v"]])
    def test_a_failing_hook(self, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        words = ["callbacks", "run", "callbacks.hooks.Hook", "--hook", "on_post_download"]
        assert run([*flags, *words, "--kwargs", '{"api_key": "secret-1"}']) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "error CAI-CALLBACK-001: on_post_download of callbacks.hooks.Hook" in captured.err
        assert "ValueError: refused ***" in captured.err
        assert "in on_post_download" in captured.err
        assert "secret-1" not in captured.err

    def test_a_failing_constructor(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["run", "callbacks.hooks.Hook", "--hook", "on_drain", "--kwargs", '{"x": 1}']
        found = error(capsys, 1, *words)
        assert found["code"] == "CAI-CALLBACK-001"
        assert "__init__ of callbacks.hooks.Hook" in found["message"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--hook", "on_pre_downlod"], 'no hook; did you mean "on_pre_download"?'),
            (["--hook", "on_ready"], "Hook does not define on_ready; it defines on_pre_init"),
            (["--hook", "on_drain", "--kwargs", "{x"], "--kwargs is not JSON: "),
            (["--hook", "on_drain", "--kwargs", "[1]"], "--kwargs must be a JSON object"),
            ([], "Missing option '--hook'"),
        ],
    )
    def test_wrong_use(
        self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = error(capsys, 2, "run", "callbacks.hooks.Hook", *words)
        assert found["code"] == "CAI-CLI-001"
        assert message in found["message"]
