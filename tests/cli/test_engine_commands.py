from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_serve_cai.cli.app import run

# Prints where a result should be, on the descriptor itself as engines' own processes do.
NOISY = """
import os
from ray_serve_cai.engines.echo import EchoEngine

class Noisy(EchoEngine):
    async def start(self, worker_id):
        os.write(1, b"words of the engine")
        return await super().start(worker_id)

    @classmethod
    def from_args(cls, args, model_path):
        return cls(args, model_path)

class Worse(Noisy):
    async def cleanup(self):
        raise RuntimeError("it is stuck")

class NoEngine(Noisy):
    async def start(self):
        pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ray_serve_cai", "engines", "check", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def rules(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {row["rule"]: row for row in json.loads(done.stdout)["rules"]}


def test_an_engine_that_keeps_the_contract(project: Path) -> None:
    done = check("noisy.Noisy", "--json")
    assert done.returncode == 0, done.stderr
    assert all(row["ok"] for row in rules(done).values())
    assert "words of the engine" in done.stderr


def test_one_that_does_not(project: Path) -> None:
    done = check("noisy.Worse", "--json")
    assert done.returncode == 1
    broken = {name for name, row in rules(done).items() if not row["ok"]}
    assert broken == {"cleanup-without-start", "cleanup-failed", "second-cleanup"}
    assert rules(done)["cleanup-failed"]["found"] == "it is stuck"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["noisy.NoEngine"], 'CAI-ENGINE-004: "noisy.NoEngine" is no engine: NoEngine.start must'),
        (["noisy.Nothing"], "CAI-SPEC-010"),
        (["ecko"], 'did you mean "echo"?'),
        (["echo", "--args", "[1]"], "--args must be a JSON object"),
        (["echo", "--args", "{"], "--args is no JSON"),
        (["echo", "--args", '{"tokens": 1}'], 'the echo engine has no argument "tokens"'),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["engines", "check", *words]) == 2
    assert said in capsys.readouterr().err
