"""By what an engine is reached, and which server stands before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_serve_cai.engines import vllm_front
from ray_serve_cai.errors import PlanError
from ray_serve_cai.serving.facts import check, front_of, transports
from ray_serve_cai.serving.jobs import code_of
from ray_serve_cai.spec import Document, load_files

VLLM = "ray_serve_cai.engines.vllm_engine.VLLMEngine"


def document(folder: Path, engine: dict[str, Any], **keys: Any) -> Document:
    path = folder / "m.yaml"
    spec = {"kind": "Model", "name": "m", "source": "builtin:demo", "engine": engine, **keys}
    path.write_text(yaml.safe_dump(spec))
    (found,) = load_files([path])
    return found


@pytest.fixture(autouse=True)
def _versions_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"vllm": "0.31.0", "smg": "1.13.0", "smg-grpc-servicer": "0.14.0"}
    monkeypatch.setattr(vllm_front, "_version", found.get)


@pytest.mark.parametrize(
    ("engine", "front"),
    [
        ({"type": "vllm", "transport": "grpc"}, "rust"),
        ({"type": "vllm", "transport": "http"}, "engine"),
        ({"type": VLLM}, "rust"),
        ({"type": VLLM, "args": {"enable_lora": True}}, "engine"),
        ({"type": "echo"}, "generic"),
        ({"type": "command", "args": {"command": ["server"]}}, "engine"),
    ],
)
def test_fronts(tmp_path: Path, engine: dict[str, Any], front: str) -> None:
    assert front_of(document(tmp_path, engine)) == front


def test_the_spec_may_name_the_servicer(tmp_path: Path) -> None:
    engine = {"type": "vllm", "transport": "grpc"}
    found = document(tmp_path, engine, env={vllm_front.SERVICER: "python"})
    assert front_of(found) == "python"
    assert transports(found) == {
        "grpc": f"the spec says so; {vllm_front.SERVICER} says so",
    }


def test_the_reason_names_the_front(tmp_path: Path) -> None:
    (reason,) = transports(document(tmp_path, {"type": "vllm", "transport": "grpc"})).values()
    assert reason == "the spec says so; SMG's Rust servicer on vLLM's engine core"


def test_vllm_by_its_path_has_vllms_arguments(tmp_path: Path) -> None:
    found = document(tmp_path, {"type": VLLM, "args": {"max_modellen": 8}})
    with pytest.raises(PlanError, match='did you mean "max_model_len"'):
        check(found)
    assert code_of(document(tmp_path, {"type": VLLM})) == ""
