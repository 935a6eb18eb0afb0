"""The script in the project that applications and jobs of Cloudera AI run.

The platform takes a file of the project only, and an installed package is none. Its text is the
same for all of them; what differs is in their variables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.files import READABLE, replace_text

NAME = "cai_entrypoint.py"
NAME_VARIABLE = "CAI_SCRIPT"
FOLDER_VARIABLE = "CAI_PROJECT_FOLDER"
PYTHON_VARIABLE = "CAI_PYTHON"
PATH_VARIABLE = "CAI_PYTHONPATH"
FOLDERS = ("CAI_HOME", "CAI_CACHE")

FIRST_LINE = "# Written by cai (ray-serve-cai), which replaces it: do not edit.\n"

# IPython runs it, so there is no __file__, sys.argv is IPython's, and `SystemExit` may be lost.
# Its own descriptors need not be what the console shows, hence the pipe.
SCRIPT = (
    FIRST_LINE
    + """\
import os, signal, subprocess, sys, threading

def show(lines):
    for line in iter(lines.readline, b""):
        print(line.decode(errors="replace"), end="", flush=True)

def run():
    paths = os.environ.get("CAI_PYTHONPATH"), os.environ.get("PYTHONPATH")
    child = subprocess.Popen(
        [os.environ.get("CAI_PYTHON") or sys.executable, "-u", "-m", "ray_serve_cai.entrypoint"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    shower = threading.Thread(target=show, args=(child.stdout,), daemon=True)
    shower.start()
    try:
        status = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        status = child.wait()
    shower.join(5)
    return status if status >= 0 else 128 - status

status = run()
if status:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
"""
)


def project_folder() -> Path:
    """The project's files: the home folder of a workload, or `$CAI_PROJECT_FOLDER`.

    Raises `ClusterError` (CAI-PROVIDER-001) outside a workload.
    """
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).resolve()
    if not os.environ.get("CDSW_ENGINE_ID"):
        raise ClusterError(
            "CAI-PROVIDER-001",
            "CDSW_ENGINE_ID is not set: the project's files are in its workloads alone",
        )
    return Path.home().resolve()


def write_script() -> str:
    """Put the script into the project; returns its path relative to it.

    Raises `ClusterError` (CAI-PROVIDER-006) for a file there that is not ours.
    """
    name = os.environ.get(NAME_VARIABLE) or NAME
    path = project_folder() / name
    try:
        if path.exists():
            text = path.read_text(errors="replace")
            if not text.startswith(FIRST_LINE):
                raise ClusterError("CAI-PROVIDER-006", f"{path} is there and not written by cai")
            if text == SCRIPT:
                return name
        replace_text(path, SCRIPT, mode=READABLE)
    except OSError as error:
        raise ClusterError("CAI-PROVIDER-006", f"{path}: {error.strerror}") from error
    return name


def script_variables() -> dict[str, str]:
    """What makes the script run this very installation: its Python, import path and folders.

    PYTHONPATH itself is left alone, since the platform puts its own folders there.
    """
    variables = {PYTHON_VARIABLE: sys.executable}
    if path := os.environ.get("PYTHONPATH"):
        variables[PATH_VARIABLE] = path
    for name in FOLDERS:
        if given := os.environ.get(name):
            variables[name] = str(Path(given).expanduser().absolute())
    return variables
