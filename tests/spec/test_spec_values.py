from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_serve_cai.errors import SpecError
from ray_serve_cai.spec import (
    ClusterSpec,
    ModelSpec,
    ReplicaRange,
    check_exposure,
    format_duration,
    format_size,
)
from ray_serve_cai.spec.base import Fault, format_path, parse_duration, parse_size, quoted
from ray_serve_cai.spec.source import Source, parse_source


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4Gi", 4 * 1024**3),
        ("512Mi", 512 * 1024**2),
        ("64M", 64_000_000),
        ("1.5Gi", 3 * 512 * 1024**2),
        ("2GiB", 2 * 1024**3),
        ("100B", 100),
        ("7", 7),
        (7, 7),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "wrong", ["", "4 Gi", "4gi", "Gi", "-1", 0, -1, 1.5, True, None, "9" * 40, "4Gi\n", "0.1B"]
)
def test_what_is_no_size(wrong: object) -> None:
    with pytest.raises(Fault):
        parse_size(wrong)


@given(st.integers(1, 2**63 - 1))
def test_a_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("2d", 172800),
        (90, 90),
        (0.25, 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("wrong", ["", "5 m", "m", "30", "-5s", -1, True, None, 1e12, "5m\n"])
def test_what_is_no_duration(wrong: object) -> None:
    with pytest.raises(Fault):
        parse_duration(wrong)


@given(st.integers(0, 10**8))
def test_a_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_fractions_of_a_second_read_back() -> None:
    assert format_duration(0.5) == "0.5s"
    assert parse_duration(format_duration(1e-7)) == 1e-7
    assert format_duration(0) == "0s"


def test_paths_and_quotes() -> None:
    assert format_path(("workers", 0, "cpu")) == "workers[0].cpu"
    assert format_path(()) == ""
    assert quoted("a\nb") == '"a\\nb"'
    assert len(quoted("x" * 200)) == 62


@pytest.mark.parametrize("name", ["a", "demo", "a-b-3", "0", "a" * 40])
def test_names(name: str) -> None:
    assert ClusterSpec(name=name).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a" * 41, "demo\n", "a/b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        ClusterSpec(name=name)


@pytest.mark.parametrize("name", ["demo", "Qwen/Qwen3-8B", "gpt-4.1_mini"])
def test_model_names(name: str) -> None:
    assert ModelSpec(name=name, source="builtin:demo").name == name


@pytest.mark.parametrize("name", ["", "/a", "a b", "a:b", "a" * 97])
def test_what_is_no_model_name(name: str) -> None:
    with pytest.raises(ValidationError):
        ModelSpec(name=name, source="builtin:demo")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Qwen/Qwen3-8B", Source("hub", "Qwen/Qwen3-8B")),
        ("Qwen/Qwen3-8B@v1.0", Source("hub", "Qwen/Qwen3-8B", "v1.0")),
        ("hf://Qwen/Qwen3-8B@refs/pr/1", Source("hub", "Qwen/Qwen3-8B", "refs/pr/1")),
        ("./model", Source("local", "/specs/model")),
        ("/models/x", Source("local", "/models/x")),
        ("file:///models/x", Source("local", "/models/x")),
        ("s3://bucket/a/b", Source("remote", "s3://bucket/a/b")),
        ("gs://bucket/a", Source("remote", "gs://bucket/a")),
        ("abfss://c@account.dfs.core.windows.net/a", None),
        ("azure://container/a", Source("remote", "azure://container/a")),
        ("builtin:demo", Source("builtin", "demo")),
    ],
)
def test_sources(text: str, source: Source | None) -> None:
    expected = source or Source("remote", text)
    found = parse_source(text, Path("/specs"))
    assert found == expected
    assert parse_source(str(found), Path("/elsewhere")) == found


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_source("~/x", Path("/specs")).location == "/home/someone/x"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "gpt2",
        "a/b/c",
        "org/name@",
        "org/na me",
        "s3://",
        "s3:bucket",
        "s3:///a",
        "ftp://a/b",
        "file://relative",
        "builtin:other",
        "~nobody-of-this-name/x",
        "./a\x00b",
        "hf://x",
    ],
)
def test_malformed_sources(wrong: str) -> None:
    with pytest.raises(Fault):
        parse_source(wrong, Path("/specs"))


def test_specs_are_frozen_and_read_back_from_their_json() -> None:
    spec = ModelSpec.model_validate(
        {
            "name": "m",
            "source": "org/name",
            "resources": {"memory": "4Gi"},
            "replicas": {"min": 0, "max": 4, "idle_after": "10m"},
            "callbacks": [{"class": "a.B", "timeout": "5m"}],
        }
    )
    dumped = spec.model_dump(mode="json")
    assert dumped["resources"]["memory"] == "4Gi"
    assert dumped["replicas"]["idle_after"] == "10m"
    assert dumped["callbacks"][0]["class"] == "a.B"
    assert ModelSpec.model_validate(dumped) == spec
    assert isinstance(spec.replicas, ReplicaRange)
    with pytest.raises(ValidationError):
        spec.name = "other"  # type: ignore[misc]


def test_secrets_are_not_in_the_representation() -> None:
    spec = ClusterSpec.model_validate(
        {
            "name": "c",
            "provider": {"type": "existing", "token": "hunter2"},
            "ray": {"env": {"X_TOKEN": "hunter2"}},
            "gateway": {"api_keys": ["hunter2"]},
        }
    )
    assert "hunter2" not in repr(spec)


@pytest.mark.parametrize(
    ("gateway", "insecure", "refused"),
    [
        ({"host": "127.0.0.1"}, False, False),
        ({"host": "localhost"}, False, False),
        ({"host": "::1"}, False, False),
        ({"host": "127.9.9.9"}, False, False),
        ({"host": "0.0.0.0"}, False, True),
        ({"host": "my-host"}, False, True),
        ({"host": "0.0.0.0"}, True, False),
        ({"host": "0.0.0.0", "api_keys": ["", "sk-1"]}, False, False),
        ({"host": "0.0.0.0", "api_keys": ["", None]}, False, True),
    ],
)
def test_exposure(gateway: dict[str, object], insecure: bool, refused: bool) -> None:
    spec = ClusterSpec.model_validate({"name": "c", "gateway": gateway})
    if not refused:
        check_exposure(spec, insecure)
        return
    with pytest.raises(SpecError) as caught:
        check_exposure(spec, insecure)
    assert caught.value.code == "CAI-SPEC-008"


def test_an_address_without_login_needs_a_key() -> None:
    provider = {"type": "cai-applications", "bypass_authentication": True}
    spec = ClusterSpec.model_validate({"name": "c", "provider": provider})
    with pytest.raises(SpecError, match="bypass_authentication"):
        check_exposure(spec, insecure=False)


def test_empty_keys_and_tokens_are_none_at_all() -> None:
    spec = ClusterSpec.model_validate(
        {
            "name": "c",
            "provider": {"type": "existing", "token": ""},
            "gateway": {"api_keys": ["", "a-key"]},
        }
    )
    assert spec.gateway.api_keys == ("a-key",)
    assert getattr(spec.provider, "token", "absent") is None
