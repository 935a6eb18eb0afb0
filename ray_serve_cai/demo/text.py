"""Reads `text.yaml`, the page that the demo model is trained on."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Pair:
    """One answer and its questions; `frames` and `topics` combine to more questions."""

    answer: str
    questions: tuple[str, ...]
    frames: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()


def load_text() -> list[Pair]:
    page = yaml.safe_load(Path(__file__).with_name("text.yaml").read_text(encoding="utf-8"))
    return [
        Pair(
            answer=entry["answer"],
            questions=tuple(entry["questions"]),
            frames=tuple(entry.get("frames", ())),
            topics=tuple(entry.get("topics", ())),
        )
        for entry in page
    ]
