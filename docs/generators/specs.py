"""docs/specs.md, from the JSON schemas of the specs and the table of Ray Serve LLM keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generators.markdown import NOTE, page, table
from ray_serve_cai.spec.base import (
    CLASS_PATTERN,
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
)
from ray_serve_cai.spec.cluster import ClusterSpec
from ray_serve_cai.spec.model import ModelSpec
from ray_serve_cai.spec.ray_llm_table import MAPPING

CONFIGS = Path(__file__).resolve().parent.parent.parent / "cluster_configs"

Schema = dict[str, Any]

INTRO = (
    "A file holds one or more documents, separated by `---`; each is a `kind: Cluster` or a",
    "`kind: Model`. Unknown keys are errors. Sizes are written `4Gi` or `512Mi`, durations `30s`",
    "or `5m`. `${VAR}`, `${VAR:-default}` and `${VAR:?message}` are replaced from the",
    "environment, and `--set head.cpu=4` replaces a value on the command line.",
    "`cai schema cluster` and `cai schema model` print the JSON schema for editors.",
)

RAY_LLM_INTRO = (
    "A file written for Ray Serve LLM (`applications: [{args: {llm_configs: [...]}}]`) is taken",
    "as it is: every `llm_config` becomes a Model. A refused key is an error",
    "([CAI-SPEC-009](errors.md#cai-spec-009)); so is a key that is not listed.",
)

TYPE_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "mapping",
}

PATTERN_WORDS = {
    SIZE_PATTERN: "size",
    DURATION_PATTERN: "duration",
    CLASS_PATTERN: "dotted path",
}


def specs_page() -> str:
    lines = ["# Specs", "", NOTE, "", *INTRO, ""]
    for title, model, example in (
        ("Cluster", ClusterSpec, "local.yaml"),
        ("Model", ModelSpec, "models/demo.yaml"),
    ):
        schema = model.model_json_schema()
        lines += [f"## {title}", "", schema["description"], ""]
        lines += yaml_example(example)
        lines += [*key_table(schema), ""]
        lines += nested_sections(title, "", schema, schema["$defs"])
    return page([*lines, "## Ray Serve LLM files", "", *RAY_LLM_INTRO, "", *ray_llm_table()])


def yaml_example(name: str) -> list[str]:
    text = (CONFIGS / name).read_text(encoding="utf-8").strip()
    return [f"Example: `cluster_configs/{name}`", "", "```yaml", text, "```", ""]


def nested_sections(title: str, path: str, schema: Schema, defs: Schema) -> list[str]:
    lines: list[str] = []
    for key, value in schema["properties"].items():
        below = f"{path}{key}" + ("[]" if "items" in value else "")
        names = list(references(value))
        for name in names:
            child = defs[name]
            kind = child["properties"].get("type", {}).get("const") if len(names) > 1 else None
            heading = f"{title}: `{below}`" + (f" of type `{kind}`" if kind else "")
            lines += [f"### {heading}", "", child["description"], ""]
            lines += [*key_table(child), ""]
            lines += nested_sections(title, f"{below}.", child, defs)
    return lines


def ray_llm_table() -> list[str]:
    rows = [
        (row.scope, f"`{row.key}`", row.fate, f"`{row.target}`" if row.target else "", row.note)
        for row in MAPPING
    ]
    return table(("level", "key", "fate", "becomes", "note"), rows)


def references(value: Schema) -> Iterator[str]:
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2]
    items = [value["items"]] if "items" in value else []
    for part in (*value.get("anyOf", ()), *value.get("oneOf", ()), *items):
        yield from references(part)


def key_table(schema: Schema) -> list[str]:
    needed = schema.get("required", ())
    rows = [
        (f"`{key}`", type_words(value), default_words(value, key in needed), value["description"])
        for key, value in schema["properties"].items()
    ]
    return table(("key", "value", "default", "meaning"), rows)


def type_words(value: Schema) -> str:
    parts = [*value.get("anyOf", ()), *value.get("oneOf", ())]
    for part in (value, *parts):
        if part.get("pattern") in PATTERN_WORDS:
            return PATTERN_WORDS[part["pattern"]]
    if parts:
        words = dict.fromkeys(type_words(part) for part in parts if part.get("type") != "null")
        return " or ".join(words)
    if "const" in value or "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if "items" in value:
        word = type_words(value["items"])
        return f"list of {word}s" if word == "mapping" else f"list of {word}"
    return TYPE_WORDS.get(value.get("type", "object"), "mapping") + limits(value)


def limits(value: Schema) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if "exclusiveMinimum" in value:
        return f" above {value['exclusiveMinimum']}"
    return f" from {low}" if low is not None else ""


def default_words(value: Schema, needed: bool) -> str:
    default = value.get("default")
    if needed:
        return "needed"
    if default is None or isinstance(default, (dict, list)):
        return ""
    word = type_words(value)
    if word == "size":
        return f"`{format_size(default)}`"
    if word == "duration":
        return f"`{format_duration(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
