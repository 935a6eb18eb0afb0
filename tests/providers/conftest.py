"""A stand-in platform, and this process as one of its sessions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cai_world import World
from fakes.cloudera.platform import Platform
from fakes.cloudera.workload import FOREVER, Workload

LIBRARIES = ("cml", "cml.workers_v1", "cml.utils_v1", "cdsw")
MakePlatform = Callable[..., Platform]


@pytest.fixture
def make_platform(short_home: Path) -> Iterator[MakePlatform]:
    """Platforms whose workloads run beside this process, in no namespaces of their own."""
    made: list[Platform] = []

    def make(**options: str) -> Platform:
        made.append(Platform(short_home / str(len(made)), apart=False, **options))
        return made[-1]

    yield make
    for platform in made:
        platform.close()


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Workload], None]]:
    """Be a process of that workload, as far as variables and imports go."""

    def go(workload: Workload) -> None:
        for name, value in workload.environment.items():
            if name.startswith("CDSW_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("CAI_HOME", str(workload.project.home / ".cai"))
        for folder in workload.project.addons:
            monkeypatch.syspath_prepend(folder)
        _forget_libraries()

    yield go
    _forget_libraries()


@pytest.fixture
def platform(make_platform: MakePlatform, enter: Callable[[Workload], None]) -> Platform:
    """A platform as documented today, with this process in a session of it."""
    made = make_platform()
    enter(made.session())
    return made


@pytest.fixture
def world(platform: Platform) -> World:
    """Agents run in its workers; they wait for a head that never comes."""
    return World(platform)


@pytest.fixture
def idle(world: World) -> World:
    """Its workers do nothing, which is all that the platform's listing needs."""
    world.platform.knobs.wanted = {"code": FOREVER}
    return world


def _forget_libraries() -> None:
    for name in LIBRARIES:
        sys.modules.pop(name, None)
