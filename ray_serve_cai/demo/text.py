"""Reads `text.yaml`, the page that the demo model is trained on."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Pair:
    answer: str
    questions: tuple[str, ...]


def load_text() -> list[Pair]:
    page = yaml.safe_load(Path(__file__).with_name("text.yaml").read_text(encoding="utf-8"))
    return [Pair(answer=entry["answer"], questions=tuple(entry["questions"])) for entry in page]
