"""What the entrypoint makes of the variables that a job or an application has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import until

from ray_serve_cai.entrypoint import command_line
from ray_serve_cai.errors import CaiError
from ray_serve_cai.plan.nodes import NodePlan


def entrypoint(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray_serve_cai.entrypoint"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestCommandLine:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("serve a.yaml", ["serve", "a.yaml"]),
            ("cai serve a.yaml", ["serve", "a.yaml"]),
            ("  serve a.yaml \r\n", ["serve", "a.yaml"]),
            ("serve\u00a0a.yaml", ["serve", "a.yaml"]),
            ('"serve a.yaml b.yaml"', ["serve", "a.yaml", "b.yaml"]),
            ("'cai serve a.yaml'", ["serve", "a.yaml"]),
            ('serve "my specs/a.yaml"', ["serve", "my specs/a.yaml"]),
            (
                "serve a.yaml -- python -c 'print(1)'",
                ["serve", "a.yaml", "--", "python", "-c", "print(1)"],
            ),
        ],
    )
    def test_what_forms_make_of_it(self, text: str, words: list[str]) -> None:
        assert command_line({"CAI_ARGUMENTS": text}) == words

    def test_the_jobs_arguments_win(self) -> None:
        both = {"JOB_ARGUMENTS": "doctor", "CAI_ARGUMENTS": "serve a.yaml"}
        assert command_line(both) == ["doctor"]

    @pytest.mark.parametrize("empty", ["", "  ", '""', "cai"])
    def test_empty_arguments_do_not(self, empty: str) -> None:
        both = {"JOB_ARGUMENTS": empty, "CAI_ARGUMENTS": "serve a.yaml"}
        assert command_line(both) == ["serve", "a.yaml"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("serve 'a.yaml", "JOB_ARGUMENTS: No closing quotation"),
            ("serve \u201ca.yaml\u201d", "begins with \u201c"),
            ("serve a.yaml \u2014 python x.py", "begins with \u2014"),
        ],
    )
    def test_what_cannot_be_meant(self, text: str, words: str) -> None:
        with pytest.raises(CaiError, match=words) as raised:
            command_line({"JOB_ARGUMENTS": text})
        assert raised.value.exit == 2

    def test_printed_quotes_inside_a_word_may_be_meant(self) -> None:
        found = command_line({"JOB_ARGUMENTS": "model chat demo 'it\u2019s'"})
        assert found[-1] == "it\u2019s"


class TestProcess:
    def test_nothing_to_do(self) -> None:
        done = entrypoint(JOB_ARGUMENTS="", CAI_ARGUMENTS="")
        assert done.returncode == 2
        assert "CAI-CLI-001: neither JOB_ARGUMENTS nor CAI_ARGUMENTS" in done.stderr
        assert "set the application's variable CAI_ARGUMENTS" in done.stderr

    @pytest.mark.parametrize(
        ("line", "status"), [("engines list", 0), ("serve missing.yaml", 2), ("no-such", 2)]
    )
    def test_exit_status_is_the_commands(self, line: str, status: int) -> None:
        assert entrypoint(CAI_ARGUMENTS=line).returncode == status

    def test_a_node_whose_cluster_is_gone(self, tmp_path: Path) -> None:
        plan = NodePlan("gpu-0", "worker", "gpu", 1).to_json()
        done = entrypoint(CAI_NODE_PLAN=plan, CAI_NODE_FOLDER=str(tmp_path / "gone"))
        assert done.returncode == 1
        assert "there is no cluster in" in done.stderr
        assert not (tmp_path / "gone").exists()

    def test_a_node_goes_before_a_command(self, tmp_path: Path) -> None:
        """It becomes the agent; without a head that ever comes, SIGTERM ends it."""
        folder = tmp_path / "demo"
        (folder / "nodes").mkdir(parents=True)
        plan = NodePlan("gpu-0", "worker", "gpu", 1).to_json()
        own = {"CAI_NODE_PLAN": plan, "CAI_NODE_FOLDER": str(folder)}
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_serve_cai.entrypoint"],
            env={**os.environ, **own, "CAI_ARGUMENTS": "engines list"},
            stdout=subprocess.PIPE,
            text=True,
        )
        until((folder / "nodes" / "gpu-0.json").is_file, 30, "the agent's row")
        process.terminate()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 143
        assert out == f"cai node gpu-0: its output is in {folder}/logs/node-gpu-0.log\n"
