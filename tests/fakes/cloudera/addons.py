"""The folder that the platform puts on a workload's PYTHONPATH, in its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

LIBRARY = Path(__file__).with_name("library.py")
Variant = Literal["cml", "cdsw", "neither"]
Signature = Literal["old", "current", "named"]

_OLD = 'n, cpu, memory, nvidia_gpu=0, kernel="python3", script="", code="", env={}'
_IDS = "accelerator_label_id=None, resource_profile_id=None, resource_group_id=None"
SIGNATURES: dict[Signature, str] = {
    "old": _OLD,
    "current": f"{_OLD}, {_IDS}",
    "named": f'{_OLD}, {_IDS}, name=""',
}


def write_addons(folder: Path, variant: Variant, signature: Signature) -> Path:
    """Returns `folder`, with `cml` or `cdsw` or none of them importable from it."""
    folder.mkdir(parents=True, exist_ok=True)
    launch = f"\n\ndef launch_workers({SIGNATURES[signature]}):\n    return _launch(**locals())\n"
    text = LIBRARY.read_text() + launch
    if variant == "cdsw":
        (folder / "cdsw.py").write_text(text)
    elif variant == "cml":
        (folder / "cml").mkdir()
        (folder / "cml" / "__init__.py").touch()
        (folder / "cml" / "workers_v1.py").write_text(text)
        (folder / "cml" / "utils_v1.py").write_text(
            "from cml.workers_v1 import _emulate_cdsw  # noqa: F401\n"
        )
    return folder
