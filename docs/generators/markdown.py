"""The few forms of Markdown that the generated pages use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTE = "<!-- Made by docs/generate.py from the code; edits here are overwritten. -->"


def page(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(header), "|" + "---|" * len(header), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    flat = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(flat)} |"


def anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def exit_table() -> list[str]:
    return table(
        ("exit", "meaning"),
        [
            ("0", "done"),
            ("1", "failed for a reason outside `cai`"),
            ("2", "wrong use, or an invalid spec"),
            ("3", "a bug in `cai`; the message names a log file"),
            ("4", "not ready in time"),
            ("130", "interrupted"),
        ],
    )
