"""The sdist builds, the wheel is built from it, and the wheel runs from an empty folder.

What this does not test: pip resolving the dependencies, which needs a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT) for path in ROOT.glob("cluster_configs/**/*.yaml"))
BUILD_SECONDS = 120

missing = [name for name in ("build", "hatchling") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"not installed: {', '.join(missing)} (extra dev)"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    # No isolation: an isolated build would fetch hatchling from an index.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)])
    return folder


@pytest.fixture(scope="module")
def site(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked; its dependencies are those of the running environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        wheel.extractall(folder)
    return folder


def test_wheel_holds_the_demo_model(dist: Path) -> None:
    model = ROOT / "ray_serve_cai" / "demo" / "model"
    wanted = {f"ray_serve_cai/demo/model/{path.name}" for path in model.iterdir()}
    assert "ray_serve_cai/demo/model/model.safetensors" in wanted
    assert wanted <= in_wheel(dist)


def test_wheel_holds_every_example_spec(dist: Path) -> None:
    wanted = {f"ray_serve_cai/project/{path.as_posix()}" for path in CONFIGS}
    assert wanted
    assert wanted <= in_wheel(dist)


def test_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    tops = {name.split("/")[0] for name in in_wheel(dist)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ray_serve_cai"}


def test_wheel_names_command_plugin_and_licence(dist: Path) -> None:
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        info = {name.partition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
        points = wheel.read(info["entry_points.txt"]).decode()
        metadata = wheel.read(info["METADATA"]).decode()
    assert "cai = ray_serve_cai.cli.app:main" in points
    assert "[vllm.general_plugins]" in points
    assert "License-Expression: Apache-2.0" in metadata
    assert "licenses/LICENSE" in info


def test_sdist_holds_what_builds_and_tests_need(dist: Path) -> None:
    with tarfile.open(only(dist, "*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {path.as_posix() for path in CONFIGS} <= names
    wanted = {"pyproject.toml", "README.md", "LICENSE", "Makefile", ".ci/run"}
    assert wanted | {"docs/generate.py", "tests/test_package.py"} <= names


def test_installed_cai_works_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(site), "CAI_API_KEY": "some", "HF_TOKEN": "some"}
    where = [sys.executable, "-c", "import ray_serve_cai; print(ray_serve_cai.__file__)"]
    assert run(where, cwd=tmp_path, env=env).startswith(str(site))
    cai = [sys.executable, "-m", "ray_serve_cai"]
    assert run([*cai, "--version"], cwd=tmp_path, env=env).strip()
    run([*cai, "init", "project"], cwd=tmp_path, env=env)
    written = sorted((tmp_path / "project").rglob("*.yaml"))
    assert [path.relative_to(tmp_path / "project") for path in written] == CONFIGS
    run([*cai, "validate", *map(str, written)], cwd=tmp_path, env=env)


def in_wheel(dist: Path) -> set[str]:
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        return set(wheel.namelist())


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def run(command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
