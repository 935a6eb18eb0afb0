"""docs/errors.md, from the catalogue."""

from __future__ import annotations

from generators.markdown import NOTE, exit_table, page
from ray_serve_cai.errors import CATALOGUE

FAMILIES = {
    "SPEC": "Spec files",
    "PLAN": "Plans",
    "CLUSTER": "Clusters",
    "STATE": "State folder",
    "MODEL": "Models",
    "ENGINE": "Engines",
    "GATEWAY": "Gateway",
    "DOOR": "Front door",
    "PROVIDER": "Providers",
    "STORAGE": "Storage",
    "CALLBACK": "Callbacks",
    "CLI": "Command line",
    "BUG": "Bugs",
}


def errors_page() -> str:
    lines = ["# Error codes", "", NOTE, "", *exit_table(), ""]
    family = ""
    for code, info in CATALOGUE.items():
        part = code.split("-")[1]
        if part != family:
            family = part
            lines += [f"## {FAMILIES[part]}", ""]
        lines += [
            f"### {code}",
            "",
            f"**{info.title}** (exit {info.exit})",
            "",
            f"Cause: {info.cause}",
            "",
            f"Cure: {info.cure}",
            "",
        ]
    return page(lines)
