"""The stand-in workbench over real HTTP, with this process set up as one of its workloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.cloudera.project import Project
from fakes.cloudera.rest import Workbench, environment


@pytest.fixture
def bench(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    """A workbench whose workloads run beside each other on this machine."""
    with Workbench(Project(short_home)).serving() as bench:
        set_up(bench, monkeypatch)
        yield bench


def set_up(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the variables of a session."""
    own = {"CDSW_ENGINE_ID": "abcdefgh12345678", "HOME": str(bench.project.home)}
    image = {
        name: value
        for name, value in bench.project.variables(temp=Path("/tmp"), own={}).items()
        if name.startswith("ML_RUNTIME_")
    }
    for name, value in (environment(bench.project) | own | image).items():
        monkeypatch.setenv(name, value)
