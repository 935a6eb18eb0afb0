"""A model small enough to ship in the package: it answers one page of questions about `cai`.

It exists so that a first cluster needs no hub, no account and no GPU. `text.yaml` is all it knows.
"""

from pathlib import Path


def model_dir() -> Path:
    return Path(__file__).parent / "model"
