from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_serve_cai.spec import Document, is_secret_name, load_files, masked, scrub, secret_values


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "api_keys",
        "HF_TOKEN",
        "token",
        "apiKey",
        "AWS_SECRET_ACCESS_KEY",
        "db-password",
        "credentials",
        "CLIENT_SECRET",
        "accessToken",
        "key",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "tokenizer",
        "max_num_batched_tokens",
        "tokenizer_mode",
        "keyboard",
        "monkey",
        "secretary",
        "kv_cache_dtype",
        "name",
        "detokenize",
        "skip_special_tokens",
    ],
)
def test_names_that_are_not_secret(name: str) -> None:
    assert not is_secret_name(name)


SPEC = """
kind: Model
name: m
source: org/name
engine:
  args:
    max_num_batched_tokens: 8192
    tokenizer: org/tokenizer
    hf_token: literal-token
    note: "the ${MY_TOKEN} again"
    api_key: 12345678
    headers: {x: !secret tagged-value}
env:
  HF_TOKEN: ${HF_TOKEN}
  OTHER: ${MY_TOKEN}
  PIN_PASSWORD: abc
  EMPTY_KEY: ""
  PLAIN: hello
  LEAK: said tagged-value aloud
callbacks:
  - {class: a.B, kwargs: {credentials: {user: someone, level: 3}, path: /tmp/x}}
"""
ENV = {"HF_TOKEN": "hf_987654", "MY_TOKEN": "hunter2"}


@pytest.fixture
def document(tmp_path: Path) -> Document:
    file = tmp_path / "m.yaml"
    file.write_text(SPEC)
    return load_files([file], env=ENV)[0]


def test_masked(document: Document) -> None:
    shown = masked(document)
    assert shown["engine"]["args"] == {
        "max_num_batched_tokens": 8192,
        "tokenizer": "org/tokenizer",
        "hf_token": "***",
        "note": "***",
        "api_key": "***",
        "headers": {"x": "***"},
    }
    assert shown["env"] == {
        "HF_TOKEN": "***",
        "OTHER": "***",
        "PIN_PASSWORD": "***",
        "EMPTY_KEY": "",
        "PLAIN": "hello",
        "LEAK": "said *** aloud",
    }
    assert shown["callbacks"][0]["kwargs"] == {
        "credentials": {"user": "***", "level": "***"},
        "path": "/tmp/x",
    }


def test_secret_values_and_scrub(document: Document) -> None:
    values = secret_values(document)
    assert values >= {"hf_987654", "hunter2", "literal-token", "tagged-value", "12345678"}
    assert "" not in values
    assert "abc" not in values
    assert scrub("failed with hunter2 and hf_987654!", values) == "failed with *** and ***!"
    assert scrub("abc is short", values) == "abc is short"


def test_scrub_finds_escaped_forms_and_longer_values_first() -> None:
    value = 'pa"ss/w ord'
    text = json.dumps({"a": value}) + " https://h/pa%22ss%2Fw%20ord"
    assert scrub(text, {value}) == '{"a": "***"} https://h/***'
    assert scrub("abcdef", {"abcd", "abcdef"}) == "***"


def test_neither_documents_nor_errors_show_secrets(document: Document, tmp_path: Path) -> None:
    for secret in secret_values(document):
        assert secret not in repr(document)
    problem = document.problem(("env",), "CAI-SPEC-004", "refused hunter2")
    assert str(problem).endswith("env: refused ***")
    file = tmp_path / "bad.yaml"
    file.write_text('kind: Model\nname: m\nsource: "s4://u:${MY_TOKEN}@bucket/x"\n')
    with pytest.raises(Exception, match=r'no store "s4://"') as caught:
        load_files([file], env=ENV)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("kind: Model\nname: ${MY_TOKEN:?}\nsource: ${HF_TOKEN}\n")
    with pytest.raises(Exception, match="source: must be a hub id") as caught:
        load_files([file], env=ENV)
    assert "hf_987654" not in str(caught.value)


def test_a_dropped_empty_key_does_not_unmask_the_next(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('kind: Cluster\nname: c\ngateway: {api_keys: ["${NO:-}", "sk-1234"]}\n')
    assert masked(load_files([file], env={})[0])["gateway"]["api_keys"] == ["***"]
