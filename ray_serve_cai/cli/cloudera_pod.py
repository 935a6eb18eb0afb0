"""What `cai doctor --cloudera` sees from inside its own pod, starting nothing.

What is compared is what docs/cloudera-ai.md assumes. Values of variables are printed only where
they cannot be secret.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ray_serve_cai.cli.doctor_checks import (
    GIB,
    Check,
    check_gpu_driver,
    check_port,
    check_shared_memory,
)
from ray_serve_cai.cluster.state import home
from ray_serve_cai.errors import ClusterError

VARIABLES = (
    *("CDSW_PROJECT_ID", "CDSW_PROJECT_NUM", "CDSW_PROJECT_URL", "CDSW_API_URL", "CDSW_API_KEY"),
    *("CDSW_APIV2_KEY", "CDSW_DOMAIN", "CDSW_ENGINE_ID", "CDSW_ENGINE_URL", "CDSW_ENGINE_TYPE"),
    *("CDSW_MASTER_ID", "CDSW_IP_ADDRESS", "CDSW_APP_PORT", "CDSW_READONLY_PORT"),
    *("CDSW_CPU_MILLICORES", "CDSW_MEMORY_MB"),
)
WORKLOAD = ("CDSW_ENGINE_TYPE", "ML_RUNTIME_EDITOR", "ML_RUNTIME_EDITION", "ML_RUNTIME_KERNEL")
LIMITS = ("IDLE_MAXIMUM_MINUTES", "SESSION_MAXIMUM_MINUTES", "JOB_MAXIMUM_MINUTES")
PORTS = ("CDSW_APP_PORT", "CDSW_READONLY_PORT", "CDSW_PUBLIC_PORT")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
CA_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
# Where an Istio sidecar says that it is ready.
SIDECAR = "http://127.0.0.1:15021/healthz/ready"
PROBE_SECONDS = 2.0
# File systems that no other pod sees, and beginnings of the names of those that others may see.
OWN = ("overlay", "tmpfs")
SHARED = ("nfs", "cifs", "smb", "lustre", "ceph", "gluster", "fuse.", "beegfs", "gpfs", "wekafs")
# The platform's add-on folder comes first on the import path and has packages of its own.
SHADOWED = ("pydantic", "typing_extensions", "httpx", "six", "yaml", "ray", "vllm")
ADDON = "cmladdon"
MEMORY_SLACK = 0.9


def pod_checks(env: Mapping[str, str]) -> list[Check]:
    """Every look at this pod, in the order in which they are shown."""
    ports = [name for name in PORTS if env.get(name, "").isdigit()]
    looks: dict[str, Callable[[], Check]] = {
        "variables": lambda: _variables(env),
        "other variables": lambda: _other_variables(env),
        "workload": lambda: _values("workload", env, WORKLOAD),
        "time limits": lambda: _values("time limits", env, LIMITS),
        "shared memory": _shared_memory,
        "cpus": lambda: _cpus(env),
        "memory": lambda: _memory(env),
        "gpu driver": check_gpu_driver,
        **{name: partial(_port, name, env) for name in ports},
        "programs": _programs,
        "pip": lambda: _pip(env),
        "shadowed packages": _shadowed,
        "service mesh": _sidecar,
        "proxies": lambda: _proxies(env),
        "CA file": lambda: _authorities(env),
        "state folder": lambda: _state_folder(home()),
        "temporary folder": lambda: _temporary_folder(Path(tempfile.gettempdir())),
    }
    return [tried(name, look) for name, look in looks.items()]


def tried(name: str, look: Callable[[], Check]) -> Check:
    """What `look` finds; a look that fails is a finding too, and the others go on."""
    try:
        return look()
    except ClusterError as error:
        return finding(name, False, f"{error.code}: {error.message}", "an answer", error.hint)
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is what this list is for
        found = f"{type(error).__name__}: {error}"
        return finding(name, False, found, "an answer", "Please report this line.")


def finding(name: str, ok: bool, found: str, assumed: str, so: str = "") -> Check:
    """A check that fails the command, as all of this checklist do."""
    return Check(name, ok, found, assumed, so, needed=True)


def _variables(env: Mapping[str, str]) -> Check:
    missing = [name for name in VARIABLES if name not in env]
    found = f"all {len(VARIABLES)}" if not missing else f"missing: {', '.join(missing)}"
    so = "What rests on a missing variable fails with its name; please report this line."
    return finding("variables", not missing, found, "set by the platform", so)


def _other_variables(env: Mapping[str, str]) -> Check:
    ours = {*VARIABLES, *WORKLOAD, *LIMITS, *PORTS}
    prefixes = ("CDSW_", "CML_", "ML_RUNTIME_", "CDP_", "CAI_", "JOB_", "PROJECT_")
    names = sorted(name for name in env if name.startswith(prefixes) and name not in ours)
    return finding("other variables", True, ", ".join(names) or "none", "names only")


def _values(name: str, env: Mapping[str, str], variables: Sequence[str]) -> Check:
    found = ", ".join(f"{key}={env[key]}" for key in variables if key in env) or "not set"
    return finding(name, True, found, "anything")


def _shared_memory() -> Check:
    check = check_shared_memory()
    so = (
        "Ray's object store is made smaller than this and vLLM on several GPUs may fail: raise "
        "the project setting Shared Memory Limit; it counts for new workloads."
    )
    return finding(check.name, check.ok, check.found, check.wanted, so)


def _cpus(env: Mapping[str, str]) -> Check:
    given = env.get("CDSW_CPU_MILLICORES", "")
    found = f"given {given or '?'} millicores, visible {os.cpu_count()} CPUs"
    found += f", cpu.max {_control_group('cpu.max') or 'not readable'}"
    so = "Nodes still start with the CPUs of the spec; only what this line shows is unsure."
    return finding("cpus", given.isdigit(), found, "CDSW_CPU_MILLICORES says what was given", so)


def _memory(env: Mapping[str, str]) -> Check:
    given, limit = env.get("CDSW_MEMORY_MB", ""), _control_group("memory.max")
    found = f"given {given or '?'} MB, memory.max {_bytes(limit)}"
    real = int(limit) if limit.isdigit() else None
    ok = given.isdigit() and (real is None or real >= int(given) * 1e6 * MEMORY_SLACK)
    so = "Give nodes `memory` in the spec: without it they size their object store by this value."
    return finding("memory", ok, found, "CDSW_MEMORY_MB is what the pod may use", so)


def _port(name: str, env: Mapping[str, str]) -> Check:
    check = check_port(int(env[name]), name)
    so = (
        "The editor of this session has it: run `cai` in an Application, or use "
        "CDSW_READONLY_PORT for the front door."
    )
    # The others are the editor's by right; ours is the first.
    ok = check.ok or name != PORTS[0]
    return finding(name, ok, f"{env[name]} {check.found}", "free", so)


def _programs() -> Check:
    found = f"python {sys.executable}, ray {shutil.which('ray') or 'not on PATH'}"
    return finding("programs", True, found, "ray need not be on PATH")


def _pip(env: Mapping[str, str]) -> Check:
    parser = configparser.ConfigParser()
    parser.read("/etc/pip.conf")
    keys = [key for section in parser.sections() for key in parser[section]]
    in_user = env.get("PIP_USER", parser.get("global", "user", fallback="")).lower()
    venv = sys.prefix != sys.base_prefix
    found = f"{'venv' if venv else 'no venv'}, PIP_USER {env.get('PIP_USER', 'not set')}"
    found += f", /etc/pip.conf sets {', '.join(keys) or 'nothing'}"
    so = "In a venv set PIP_USER=0 before `pip install`, else packages go to ~/.local."
    return finding(
        "pip",
        not (venv and in_user in ("1", "true", "yes", "on")),
        found,
        "PIP_USER=0 in a venv",
        so,
    )


def _shadowed() -> Check:
    specs = {name: importlib.util.find_spec(name) for name in SHADOWED}
    wrong = [name for name, spec in specs.items() if spec and ADDON in (spec.origin or "")]
    path = ", ".join(entry for entry in sys.path if ADDON in entry) or "none"
    found = f"{', '.join(wrong) or 'none'}; add-on folders on the path: {path}"
    so = f"The platform's copies hide yours ({', '.join(wrong)}): put site-packages before them."
    return finding("shadowed packages", not wrong, found, "none", so)


def _sidecar() -> Check:
    import httpx

    try:
        answer = httpx.get(SIDECAR, timeout=PROBE_SECONDS, trust_env=False)
    except httpx.ConnectError:
        return finding("service mesh", True, "nothing on port 15021", "no Istio sidecar")
    except httpx.HTTPError as error:
        found = f"{SIDECAR}: {type(error).__name__}"
    else:
        found = f"{SIDECAR}: status {answer.status_code}"
    so = (
        "A sidecar may hold traffic between pods: keep tensor parallel inside one pod, and run "
        "`cai doctor --cloudera --start` to see what it lets through."
    )
    return finding("service mesh", False, found, "no Istio sidecar", so)


def _proxies(env: Mapping[str, str]) -> Check:
    set_here = [f"{name}={_host(env[name])}" for name in PROXIES if env.get(name)]
    exempt = env.get("no_proxy") or env.get("NO_PROXY") or "empty"
    found = f"{', '.join(set_here)}; no_proxy {exempt}" if set_here else "none"
    return finding("proxies", True, found, "calls to pods bypass them")


def _authorities(env: Mapping[str, str]) -> Check:
    given = {name: Path(env[name]) for name in CA_VARIABLES if env.get(name)}
    files = {**given, "system": CA_FILE}
    found = ", ".join(f"{name} {path} {_there(path)}" for name, path in files.items())
    plain = env.get("CDSW_API_URL", "").startswith("http://")
    ok = all(path.is_file() for path in given.values()) and (plain or CA_FILE.is_file())
    so = "Calls of the platform may fail on its certificate: set REQUESTS_CA_BUNDLE to its CA."
    return finding("CA file", ok, found, "files that exist", so)


def _state_folder(path: Path) -> Check:
    kind = _file_system(path)
    so = f"Pods meet in {path}: set CAI_HOME to a folder that all of them share."
    ok = kind not in OWN
    return finding("state folder", ok, _described(path, kind), "shared by all pods", so)


def _temporary_folder(path: Path) -> Check:
    kind = _file_system(path)
    so = "Ray's files would be slow there: set TMPDIR to a folder of the pod's own."
    ok = not kind.startswith(SHARED)
    return finding("temporary folder", ok, _described(path, kind), "of this pod alone", so)


def _described(path: Path, kind: str) -> str:
    return f"{path} on {kind}, {shutil.disk_usage(_existing(path)).free / GIB:.1f} GiB free"


def _file_system(path: Path) -> str:
    import psutil

    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    where = _existing(path).resolve()
    return next((mounts[str(up)] for up in (where, *where.parents) if str(up) in mounts), "?")


def _existing(path: Path) -> Path:
    return next(up for up in (path, *path.parents) if up.exists())


def _control_group(name: str) -> str:
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""


def _bytes(text: str) -> str:
    return f"{int(text) / GIB:.1f} GiB" if text.isdigit() else text or "not readable"


def _host(url: str) -> str:
    """A proxy's address without the user and password that may stand in it."""
    parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
    return f"{parts.hostname}:{parts.port or ''}"


def _there(path: Path) -> str:
    return "there" if path.is_file() else "missing"
