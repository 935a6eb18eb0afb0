from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from ray_serve_cai.engines import registry as module
from ray_serve_cai.engines.base import EngineConfig
from ray_serve_cai.engines.command import CommandEngine
from ray_serve_cai.engines.echo import EchoEngine
from ray_serve_cai.engines.protocols import ConfigBuilderProtocol, DeploymentFactoryProtocol
from ray_serve_cai.engines.registry import (
    BUILT_IN,
    EngineInfo,
    EngineRegistry,
    get_registry,
    name_in_spec,
    register_engine,
)
from ray_serve_cai.errors import EngineError, SpecError

ECHO = "ray_serve_cai.engines.echo:EchoEngine"


@pytest.fixture
def registry() -> EngineRegistry:
    made = EngineRegistry()
    for info in BUILT_IN:
        made.register(info)
    return made


def test_built_in() -> None:
    assert {"vllm", "echo"} <= {info.name for info in get_registry().list_engines()}


def test_loads(registry: EngineRegistry) -> None:
    assert registry.get("echo").load() is EchoEngine


def test_register_and_unregister(registry: EngineRegistry) -> None:
    registry.register(EngineInfo("mine", ECHO, "my own"))
    assert registry.is_registered("mine")
    assert registry.get("mine").load() is EchoEngine
    registry.unregister("mine")
    registry.unregister("mine")
    assert not registry.is_registered("mine")


def test_register_for_the_process() -> None:
    register_engine(EngineInfo("mine", ECHO, "my own"))
    try:
        assert get_registry().get("mine").load() is EchoEngine
    finally:
        get_registry().unregister("mine")


def test_unknown(registry: EngineRegistry) -> None:
    with pytest.raises(EngineError) as caught:
        registry.get("vlm")
    assert caught.value.code == "CAI-ENGINE-001"
    assert caught.value.message == (
        'there is no engine "vlm" (known: command, echo, sglang, vllm); did you mean "vllm"?'
    )


def test_unknown_and_near_to_nothing(registry: EngineRegistry) -> None:
    with pytest.raises(EngineError, match=r"\(known: command, echo, sglang, vllm\)$"):
        registry.get("tensorrt")


@pytest.mark.parametrize("path", [ECHO, ECHO.replace(":", ".")])
def test_dotted_path(registry: EngineRegistry, path: str) -> None:
    assert registry.get(path).load() is EchoEngine


def test_dotted_path_to_no_engine(registry: EngineRegistry) -> None:
    with pytest.raises(EngineError, match="not a subclass of LLMEngine") as caught:
        registry.get("pathlib.Path").load()
    assert caught.value.code == "CAI-ENGINE-004"


def test_signatures_are_checked_when_a_class_is_registered(registry: EngineRegistry) -> None:
    class NoId(EchoEngine):
        async def start(self) -> EngineConfig:  # type: ignore[override]
            return EngineConfig("m")

    with pytest.raises(EngineError, match=r"NoId.start must take \(self, worker_id\)") as caught:
        registry.register(NoId)
    assert caught.value.code == "CAI-ENGINE-004"
    assert not registry.is_registered("NoId")
    registry.register(EchoEngine, "mine")
    assert registry.get("mine").load() is EchoEngine


def test_the_most_explicit_name_is_picked(registry: EngineRegistry) -> None:
    assert registry.pick(None, "echo", "vllm").name == "echo"
    assert registry.pick(None, None).name == "vllm"
    registry.default = "echo"
    assert registry.pick(None, "").name == "echo"


def test_dotted_path_to_nothing(registry: EngineRegistry) -> None:
    with pytest.raises(SpecError, match='did you mean "EchoEngine"'):
        registry.get("ray_serve_cai.engines.echo.EchoEngin").load()


def test_not_installed(registry: EngineRegistry) -> None:
    info = EngineInfo("rare", ECHO, "", needs="no_such_package_here", extra="rare")
    registry.register(info)
    assert not registry.get("rare").installed
    with pytest.raises(EngineError, match='needs the package "no_such_package_here"') as caught:
        registry.get("rare").load()
    assert caught.value.code == "CAI-ENGINE-002"
    assert caught.value.hint == 'pip install "ray-serve-cai[rare]"'


class HttpOnly(EchoEngine):
    own_server = True


class Both(EchoEngine):
    transports = ("http", "grpc")


class Wrong(EchoEngine):
    transports = ("quic",)


@pytest.mark.parametrize(
    ("kind", "transports"),
    [
        (EchoEngine, ("grpc",)),
        (HttpOnly, ("http",)),
        (CommandEngine, ("http",)),
        (Both, ("http", "grpc")),
    ],
)
def test_a_class_declares_its_transports(
    registry: EngineRegistry, kind: type[EchoEngine], transports: tuple[str, ...]
) -> None:
    registry.register(kind, "mine")
    assert registry.get("mine").reached_by() == transports


def test_transports_that_there_are_not(registry: EngineRegistry) -> None:
    registry.register(Wrong, "mine")
    with pytest.raises(EngineError, match=r"Wrong\.transports must be a tuple of grpc, http"):
        registry.get("mine").reached_by()


def test_engines_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoint("theirs", f"{__name__}:Both", module.ENTRY_POINT_GROUP)
    own = EntryPoint("vllm", f"{__name__}:Both", module.ENTRY_POINT_GROUP)
    monkeypatch.setattr(module, "entry_points", lambda group: (found, own))
    module._entry_points.cache_clear()
    get_registry.cache_clear()
    try:
        theirs = get_registry().get("theirs")
        assert theirs.load() is Both
        assert theirs.reached_by() == ("http", "grpc")
        assert name_in_spec(theirs) == "theirs"
        # A built-in name stays what it is.
        assert get_registry().get("vllm").path.endswith("VLLMEngine")
    finally:
        module._entry_points.cache_clear()
        get_registry.cache_clear()


def test_a_replica_finds_by_path_what_only_this_process_has_registered(
    registry: EngineRegistry,
) -> None:
    registry.register(EngineInfo("mine", ECHO, "my own"))
    assert name_in_spec(registry.get("mine")) == ECHO
    assert name_in_spec(registry.get("echo")) == "echo"
    assert name_in_spec(registry.get(f"{__name__}.Both")) == f"{__name__}.Both"


@pytest.mark.parametrize("row", BUILT_IN)
def test_a_built_in_engine_by_its_path_is_that_engine(
    registry: EngineRegistry, row: EngineInfo
) -> None:
    module, _, name = row.path.rpartition(".")
    for path in (row.path, f"{module}:{name}"):
        assert registry.get(path) == row


@pytest.mark.parametrize("name", ["vllm", "sglang", "command", "echo", ECHO])
def test_every_engine_has_a_builder_and_a_factory(registry: EngineRegistry, name: str) -> None:
    info = registry.get(name)
    assert isinstance(info.config_builder(), ConfigBuilderProtocol)
    assert isinstance(info.deployment_factory(), DeploymentFactoryProtocol)


def test_what_is_no_builder() -> None:
    info = EngineInfo("mine", ECHO, "my own", builder="pathlib:PurePath")
    with pytest.raises(EngineError, match="methods build_config, get_default_config, validate"):
        info.config_builder()
