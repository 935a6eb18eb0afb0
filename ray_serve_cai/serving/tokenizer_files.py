"""The files of a model that the gateway needs to tokenize, packed for its question."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

TOKENIZER_CHUNK = 64 * 1024
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def tokenizer_zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            if path.name in TOKENIZER_FILES or path.suffix in (".jinja", ".tiktoken"):
                archive.write(path, path.name)
    return buffer.getvalue()
