"""What the platform's library in this workload is, read from its signatures and its source."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ray_serve_cai.cli.cloudera_pod import finding, tried
from ray_serve_cai.cli.doctor_checks import Check

if TYPE_CHECKING:
    from ray_serve_cai.providers.cai_library import WorkersLibrary

FUNCTIONS = ("launch_workers", "list_workers", "stop_workers", "await_workers")
PARAMETERS = {"n", "cpu", "memory", "nvidia_gpu", "code", "env"}
FURTHER = ("accelerator_label_id", "resource_profile_id", "resource_group_id", "name")


@dataclass(frozen=True)
class Behaviour:
    """Something that a function's source shows: whether `pattern` occurs in it."""

    name: str
    function: str
    pattern: str
    occurs: bool
    so: str


BEHAVIOURS = (
    Behaviour(
        "a refused launch is an answer",
        "launch_workers",
        r"raise_for_status",
        False,
        "Refusals may come as exceptions; `up` then shows them as no usable answer.",
    ),
    Behaviour(
        "an error of the listing is an answer",
        "list_workers",
        r"raise_for_status",
        False,
        "An error may come as an exception; it counts as no usable answer either way.",
    ),
    Behaviour(
        "only workers of this workload are listed",
        "list_workers",
        r"CDSW_ENGINE_URL|/workers|engine",
        True,
        "The list may hold workers of others, which `cai` leaves alone: it knows its own ids.",
    ),
    Behaviour(
        "workers are stopped by id",
        "stop_workers",
        r"def stop_workers\(\s*\*",
        True,
        "Ids may have to be given in another form: look at the signature above.",
    ),
)


def library_checks() -> list[Check]:
    """Signatures and behaviours of the module that `cai` would launch workers with."""
    from ray_serve_cai.providers.cai_library import MODULES, find_library

    module, failures = _first(MODULES)
    if module is None:
        so = "No workers can be launched here; `provider: {type: cai-applications}` needs none."
        return [finding("worker library", False, "; ".join(failures), " or ".join(MODULES), so)]
    where = getattr(module, "__file__", None) or "no file"
    version = getattr(module, "__version__", "no version")
    found = "; ".join([f"{module.__name__}, {version}, {where}", *failures])
    return [
        finding("worker library", True, found, " or ".join(MODULES)),
        *(tried(name, partial(_signature, module, name)) for name in FUNCTIONS),
        *(tried(each.name, partial(_behaviour, module, each)) for each in BEHAVIOURS),
        tried("own workers", lambda: _listed(find_library())),
    ]


def _first(names: Sequence[str]) -> tuple[ModuleType | None, list[str]]:
    """The first of these modules, and why those before it are none."""
    failures: list[str] = []
    for name in names:
        try:
            return importlib.import_module(name), failures
        except ImportError as error:
            failures.append(f"{name}: {error}")
    return None, failures


def _listed(library: WorkersLibrary) -> Check:
    counts = Counter(str(row.get("status")) for row in library.list().values())
    found = ", ".join(f"{count}x {word}" for word, count in counts.items()) or "none"
    return finding("own workers", True, found, "a list")


def _signature(module: ModuleType, name: str) -> Check:
    function = getattr(module, name, None)
    if function is None:
        # `cai` does its own waiting.
        needed = name != "await_workers"
        return finding(name, not needed, "missing", "a function", "No worker can be managed.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        return finding(name, True, f"no signature: {error}", "a readable signature")
    found = f"{name}{signature}"
    if name != "launch_workers":
        return finding(name, True, found, "as in docs/cloudera-ai.md")
    lacks = sorted(PARAMETERS - signature.parameters.keys())
    further = [word for word in FURTHER if word in signature.parameters]
    so = f"`cai` cannot pass {', '.join(lacks)}: please report this line."
    found += f"; of the further ones: {', '.join(further) or 'none'}"
    return finding(name, not lacks, found, "n, cpu, memory, nvidia_gpu, code, env", so)


def _behaviour(module: ModuleType, behaviour: Behaviour) -> Check:
    source = _source(getattr(module, behaviour.function, None))
    where = f"source of {behaviour.function}"
    if not source:
        found = f"{where} not readable; --start tries it"
        return finding(behaviour.name, True, found, "yes")
    occurs = re.search(behaviour.pattern, source) is not None
    ok = occurs == behaviour.occurs
    found = f"{'yes' if ok else 'no'}, by the {where}"
    return finding(behaviour.name, ok, found, "yes", behaviour.so)


def _source(function: Callable[..., Any] | None) -> str:
    if function is None:
        return ""
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return ""
