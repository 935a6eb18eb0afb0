"""JSON schema of the specs, for editors and for programs that write them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.json_schema import GenerateJsonSchema

from ray_serve_cai.spec.base import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    SpecModel,
    format_duration,
    format_size,
)
from ray_serve_cai.spec.document import KINDS

Kind = Literal["cluster", "model"]

_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_NUMBERS = ("integer", "number", "boolean")


def json_schema(kind: Kind) -> dict[str, Any]:
    """The draft 2020-12 schema of one kind of document.

    It describes what may be written: `${VAR}` is allowed wherever a number or a word is, and an
    unquoted number where text is.
    """
    model: type[SpecModel] = KINDS[kind.capitalize()]
    schema = model.model_json_schema(by_alias=True)
    tidy = {name: _tidy(part) for name, part in schema.pop("$defs", {}).items()}
    root = _tidy(schema)
    root["required"] = ["kind", *root.get("required", [])]
    root["title"] = f"cai {kind} spec"
    return {"$schema": GenerateJsonSchema.schema_dialect, **root, "$defs": tidy}


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    tidy = {name: _property(part) for name, part in properties.items()}
    return {**schema, "properties": tidy} if tidy else schema


def _property(schema: dict[str, Any]) -> dict[str, Any]:
    """Titles that repeat the key go; defaults read as they would be written."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "default" in schema:
        schema["default"] = _default(schema)
    if "const" in schema:
        return schema
    if "items" in schema:
        return {**schema, "items": _open(schema["items"])}
    if schema.get("type") == "object":
        return _open_values(schema)
    return _open(schema)


def _open_values(schema: dict[str, Any]) -> dict[str, Any]:
    values = schema.get("additionalProperties")
    if not isinstance(values, dict):
        return schema
    return {**schema, "additionalProperties": {"type": ["string", *_NUMBERS]}}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """Let `${VAR}` stand for a scalar that has bounds, a pattern, or another type than text."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _VARIABLE]}
    narrow = any(map(_is_narrow, schema.get("oneOf", [schema])))
    if not narrow:
        return schema
    outer: dict[str, Any] = {
        key: schema[key] for key in ("description", "default") if key in schema
    }
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {**outer, "anyOf": [inner, _VARIABLE]}


def _is_narrow(schema: dict[str, Any]) -> bool:
    return schema.get("type") in _NUMBERS or "enum" in schema or "pattern" in schema


def _default(schema: dict[str, Any]) -> Any:
    patterns = {part.get("pattern") for part in schema.get("anyOf", ())}
    default = schema["default"]
    if default is not None and DURATION_PATTERN in patterns:
        return format_duration(default)
    if isinstance(default, int) and SIZE_PATTERN in patterns:
        return format_size(default)
    return default
