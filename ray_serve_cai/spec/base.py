"""What all specs share: the strict base model, and the types that read `4Gi`, `5m` and names."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

KeyPath = tuple[str | int, ...]

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$"
SIZE_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})?([KMGT]i?)?B?$"
DURATION_PATTERN = r"^([0-9]{1,12}(\.[0-9]{1,9})?(ms|s|m|h|d))+$"
CLASS_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"

_SIZE_UNITS = {"": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("i", 1024), ("", 1000))
}
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Fault(ValueError):
    """A validator's refusal, in words that are shown as they are.

    `at` leads from the validated value to the part that is wrong.
    """

    def __init__(self, message: str, *, at: KeyPath = (), code: str = "CAI-SPEC-004") -> None:
        super().__init__(message)
        self.at = at
        self.code = code


class SpecModel(BaseModel):
    """Strict and frozen: an unknown key, a number where text belongs, is an error and no guess."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        serialize_by_alias=True,
    )


def format_path(path: KeyPath) -> str:
    """`("workers", 0, "cpu")` as `workers[0].cpu`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def parse_size(value: object) -> int:
    """Bytes of `4Gi`, `512Mi`, `64M` or a plain number of bytes; at least 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(SIZE_PATTERN, value)):
        unit = match[2] or ""
        size = int(Decimal(value.removesuffix("B").removesuffix(unit)) * _SIZE_UNITS[unit])
    else:
        raise Fault("must be a size such as 4Gi, 512Mi or 64M")
    if not 1 <= size < 2**63:
        raise Fault("must be a size of at least one byte and less than 8 million Ti")
    return size


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back to the same number."""
    exact = [
        f"{size // factor}{unit}" for unit, factor in _SIZE_UNITS.items() if size % factor == 0
    ]
    return min(exact, key=len)


def rounded_size(size: float) -> str:
    """For people: `18.8Gi`, where `format_size` is exact."""
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return f"{size:.0f}"


def parse_duration(value: object) -> float:
    """Seconds of `30s`, `5m`, `1h30m`, `500ms` or a plain number of seconds; not negative."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds: float = value
    elif isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        parts = re.findall(r"([0-9.]+)(ms|[smhd])", value)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise Fault("must be a duration such as 30s, 5m or 1h")
    if not 0 <= seconds < 1e9:
        raise Fault("must be a duration between 0s and 10000d")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Text that `parse_duration` reads back to the same number of seconds."""
    for unit in ("h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def matching(pattern: str, wanted: str) -> Callable[[object], object]:
    """A validator for text that must match `pattern`; `wanted` completes "must be …"."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise Fault(f"must be {wanted}, not {quoted(value)}")
        return value

    return check


def quoted(value: str) -> str:
    """Text as it appears in a message: one line, not too long."""
    text = value if len(value) <= 60 else value[:57] + "..."
    visible = (char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return '"' + "".join(visible) + '"'


def _parse_port(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    raise Fault("must be a port from 1 to 65535, or auto")


def _header_safe(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[!-~]*", value):
        raise Fault("must be printable ASCII without spaces or line breaks")
    return value


def _no_nul(value: object) -> object:
    if isinstance(value, str) and "\0" in value:
        raise Fault("must not contain a NUL character")
    return value


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


Name = Annotated[
    str,
    BeforeValidator(
        matching(NAME_PATTERN, "lower-case letters, digits and hyphens between them (40 at most)")
    ),
    _text(NAME_PATTERN),
]
ModelName = Annotated[
    str,
    BeforeValidator(matching(MODEL_NAME_PATTERN, "letters, digits and . _ / - (96 at most)")),
    _text(MODEL_NAME_PATTERN),
]
ClassPath = Annotated[
    str,
    BeforeValidator(matching(CLASS_PATTERN, "a dotted path such as callbacks.metrics.Startup")),
    _text(CLASS_PATTERN),
]
VariableName = Annotated[
    str, BeforeValidator(matching(VARIABLE_PATTERN, "the name of an environment variable"))
]
Environment = dict[VariableName, Annotated[str, BeforeValidator(_no_nul)]]
Port = Annotated[
    int | Literal["auto"],
    PlainValidator(
        _parse_port,
        json_schema_input_type=Annotated[int, Field(ge=1, le=65535)] | Literal["auto"],
    ),
]
ByteSize = Annotated[
    int,
    PlainValidator(
        parse_size,
        json_schema_input_type=Annotated[int, Field(ge=1)]
        | Annotated[str, Field(pattern=SIZE_PATTERN)],
    ),
    PlainSerializer(format_size, return_type=str, when_used="json"),
]
Duration = Annotated[
    float,
    PlainValidator(
        parse_duration,
        json_schema_input_type=Annotated[float, Field(ge=0)]
        | Annotated[str, Field(pattern=DURATION_PATTERN)],
    ),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
Secret = Annotated[str, BeforeValidator(_header_safe)]
