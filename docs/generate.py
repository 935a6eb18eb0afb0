"""Writes the pages that are made from code: `python docs/generate.py [--check]`.

`--check` writes nothing and fails when a page differs from what the code says now.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from generators.cli import cli_page
from generators.errors import errors_page
from generators.specs import specs_page

DOCS = Path(__file__).resolve().parent

PAGES = {"cli.md": cli_page, "errors.md": errors_page, "specs.md": specs_page}


def main(argv: Sequence[str]) -> int:
    stale = 0
    for name, page in PAGES.items():
        path = DOCS / name
        wanted = page()
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if wanted == found:
            continue
        if "--check" in argv:
            stale += 1
            print_difference(name, found, wanted)
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote docs/{name}")
    if stale:
        print("Run `python docs/generate.py`.", file=sys.stderr)
    return min(stale, 1)


def print_difference(name: str, found: str, wanted: str) -> None:
    print(f"docs/{name} is not what the code says:", file=sys.stderr)
    lines = difflib.unified_diff(
        found.splitlines(), wanted.splitlines(), "on disk", "from the code", lineterm="", n=0
    )
    for line in list(lines)[:20]:
        print(f"  {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
