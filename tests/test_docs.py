"""The pages made from code are current, links lead somewhere, and CI runs what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_serve_cai.callbacks.hooks import HOOKS, SKIPPING
from ray_serve_cai.spec import load_files

ROOT = Path(__file__).resolve().parent.parent

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
KIND = re.compile(r"^kind:", re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:\$ )?(make (?:demo|test))\b", re.MULTILINE)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_relative_links_hold(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [first or second for first, second in LINK.findall(text)]
    broken = [target for target in targets if not leads_somewhere(page, target)]
    assert not broken


def leads_somewhere(page: Path, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists():
        return False
    return not anchor or path.suffix != ".md" or anchor in anchors(path)


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {slug(heading) for heading in headings}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if YAML.search(page.read_text())], ids=names
)
def test_specs_in_the_pages_load(page: Path, tmp_path: Path) -> None:
    blocks = YAML.findall(page.read_text(encoding="utf-8"))
    for number, block in enumerate(block for block in blocks if KIND.search(block)):
        path = tmp_path / f"{page.stem}-{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load_files([path], env={"CAI_API_KEY": "some", "HF_TOKEN": "some"})


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(COMMAND.findall(readme))
    assert commands == {"make demo", "make test"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands <= set(COMMAND.findall(script))


def test_callbacks_page_has_the_hook_table() -> None:
    page = (ROOT / "docs" / "callbacks.md").read_text(encoding="utf-8")
    table = page.split("## The hooks")[1].split("### What False skips")[0]
    named = [hook for hook in re.findall(r"`(on_\w+)", table) if hook in HOOKS]
    assert list(dict.fromkeys(named))[: len(HOOKS)] == list(HOOKS)
    skips = page.split("### What False skips")[1].split("## The context")[0]
    rows = [line for line in skips.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(on_\w+)`", "".join(rows))) == set(SKIPPING)
