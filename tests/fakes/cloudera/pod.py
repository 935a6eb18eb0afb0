"""Runs inside a workload: `python pod.py SETTINGS`, the first process of its namespaces.

Settings (JSON): `address` (with its prefix length; absent without namespaces), `hostname`,
`temp` (source and target of a bind mount), `hosts`, `shm_megabytes`, `code` or `script`, `home`,
`log`, `app_port`, `port_taken`, `web` (Unix socket that leads to the app's port), `silent_ports`,
`grace_seconds`, `swallows_exit`. It says `up` on stdout and begins at a line on stdin. The end of
stdin, be it that whoever started it died, is the end of everything in the pod. Its exit status is
that of the code.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
_SHELL_LINE = re.compile(r"^(\s*)!(.*)$", re.MULTILINE)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    print("up", flush=True)
    if not sys.stdin.readline():
        os._exit(1)
    if "address" in settings:
        set_up(settings)
    else:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    listeners = [silent_listener(settings["ip"], port) for port in settings["silent_ports"]]
    if settings["port_taken"]:
        listeners.append(silent_listener("127.0.0.1", settings["app_port"]))
    code = os.fork()
    if code == 0:
        for listener in listeners:
            listener.close()
        run_as_child(settings)
    for work in (serve_web, wait_for_stop):
        threading.Thread(target=work, args=(settings, code), daemon=True).start()
    end(status_of(code))


def set_up(settings: dict[str, Any]) -> None:
    """Name, address and mounts of the pod's own namespaces."""
    socket.sethostname(settings["hostname"])
    source, target = settings["temp"]
    size = settings["shm_megabytes"]
    for command in (
        f"mount --bind {source} {target}",
        f"mount --bind {settings['hosts']} /etc/hosts",
        f"mount -t tmpfs -o size={size}m tmpfs /dev/shm",
        f"ip addr add {settings['address']} dev eth0",
        "ip link set eth0 up",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)


def run_as_child(settings: dict[str, Any]) -> None:
    os.setsid()
    log = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(settings["home"])
    status = interpret(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def interpret(settings: dict[str, Any]) -> int:
    """Run the text as the platform's IPython does; `__file__` is not defined there."""
    sys.argv = ["/usr/local/bin/ipython"]
    sys.path[0] = settings["home"]
    builtins.get_ipython = Shell  # type: ignore[attr-defined]
    text = settings["code"]
    if settings["script"]:
        # The platform takes the script when both are given.
        text = (Path(settings["home"]) / settings["script"]).read_text()
    try:
        lines = _SHELL_LINE.sub(lambda m: f"{m[1]}get_ipython().system({m[2]!r})", text)
        exec(compile(lines, "<workload>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return 0 if settings["swallows_exit"] or ended.code in (None, 0) else 1
    except BaseException:  # noqa: BLE001 - the console shows it and the workload has failed
        traceback.print_exc()
        return 1
    return 0


class Shell:
    """The part of IPython that a `!` line uses."""

    def system(self, command: str) -> None:
        sys.stdout.flush()
        # Its exit status is lost there too.
        subprocess.run(["sh", "-c", command], check=False)


def status_of(code: int) -> int:
    """Wait for the code's process, and reap what else ends meanwhile."""
    while True:
        pid, status = os.wait()
        if pid == code:
            found = os.waitstatus_to_exitcode(status)
            return found if found >= 0 else 128 - found


def wait_for_stop(settings: dict[str, Any], code: int) -> None:
    if sys.stdin.readline():
        with suppress(ProcessLookupError):
            os.kill(code, signal.SIGTERM)
        deadline = time.monotonic() + settings["grace_seconds"]
        # The main thread ends this process as soon as the code has ended.
        while time.monotonic() < deadline:
            time.sleep(0.02)
    end(1)


def end(status: int) -> None:
    if os.getpid() == 1:
        os._exit(status)
    while doomed := descendants(os.getpid()):
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
    os._exit(status)


def descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def silent_listener(host: str, port: int) -> socket.socket:
    """A port that takes connections, as a mesh's sidecar does, and never says a word."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(64)
    return listener


def serve_web(settings: dict[str, Any], _: int) -> None:
    """Lead the platform's requests to the port of the pod's loopback."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(settings["web"])
    listener.listen(64)
    while True:
        outside, _address = listener.accept()
        threading.Thread(target=relay, args=(outside, settings["app_port"]), daemon=True).start()


def relay(outside: socket.socket, port: int) -> None:
    try:
        inside = socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError:
        outside.close()
        return
    inside.settimeout(None)
    back = threading.Thread(target=pump, args=(inside, outside), daemon=True)
    with closing(inside), closing(outside):
        back.start()
        pump(outside, inside)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
