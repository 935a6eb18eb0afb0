"""One connection of this process to a cluster's Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RpcError

from ray_serve_cai.cluster.node import ROLE_LABEL
from ray_serve_cai.cluster.ports import listens
from ray_serve_cai.cluster.visitor import visiting
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.interrupts import kept

_VERSIONS = re.compile(r"Ray: (\S+)")
_RETRY_SECONDS = 0.2
INIT_SECONDS = 40.0
_TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH"


@contextmanager
def connected(
    address: str,
    *,
    namespace: str,
    token_path: Path | None = None,
    patience: float = 0.0,
    visit: bool = False,
) -> Iterator[None]:
    """Be a driver of the Ray at `address` (`host:port`, or `auto`) inside the block.

    `patience` is how long, in seconds, to go on trying while a new head comes up. With `visit`
    this machine is no node of that Ray and becomes one for the length of the block. Raises
    `ClusterError`: CAI-CLUSTER-007 when nothing answers or the token is refused, CAI-CLUSTER-008
    when the versions differ.
    """
    with _token(token_path), _visit(address, patience) if visit else nullcontext():
        _connect(address, namespace, patience)
        try:
            yield
        finally:
            with kept():
                ray.shutdown()


def alive_nodes(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ray's live nodes by our node id; nodes that we did not start go by Ray's own id.

    Ray counts a killed node among the living for some seconds. `rows`, the agents' words, tell
    such a predecessor from the node of the same id that is there now.
    """
    found = {}
    for node in ray.nodes():
        labels = node["Labels"]
        node_id = labels.get("cai-node") or node["NodeID"]
        row = rows.get(node_id, {})
        if labels.get(ROLE_LABEL) == "visitor":
            continue
        if node["Alive"] and row.get("run") in (None, labels.get("cai-run")):
            found[node_id] = node
    return found


def default_token_exists() -> bool:
    """Whether Ray finds a token by itself: in a variable of its own, or in its usual file."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get(_TOKEN_VARIABLE)
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def gcs_address() -> str:
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _visit(address: str, patience: float) -> Iterator[None]:
    try:
        _wait_for_port(address, time.monotonic() + patience)
    except ConnectionError as error:
        raise ClusterError("CAI-CLUSTER-007", _unreachable(address, error)) from error
    try:
        with visiting(address):
            yield
    except AuthenticationError as error:
        raise _translated(address, error) from error


def _connect(address: str, namespace: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            _wait_for_port(address, deadline)
            if patience:
                _wait_for_node(address, deadline)
            _bounded_init(address, namespace)
        except (ConnectionError, RpcError, ValueError) as error:
            if time.monotonic() > deadline:
                raise ClusterError("CAI-CLUSTER-007", _unreachable(address, error)) from error
            time.sleep(_RETRY_SECONDS)
        except (RuntimeError, AuthenticationError) as error:
            raise _translated(address, error) from error
        else:
            return


def _wait_for_port(address: str, deadline: float) -> None:
    """`ray.init` tries for many minutes to reach an address where nothing listens."""
    host, _, port = address.rpartition(":")
    while host and not listens(host, int(port)):
        if time.monotonic() > deadline:
            raise ConnectionError("nothing listens there")
        time.sleep(_RETRY_SECONDS / 4)


def _wait_for_node(address: str, deadline: float) -> None:
    """`ray.init` looks for a node only once a second; a head that just came up has none yet."""
    with contextlib.suppress(RpcError, AuthenticationError), _native_messages():
        client = ray._raylet.GcsClient(address=address)
        while time.monotonic() < deadline and not client.get_all_node_info(timeout=1):
            time.sleep(_RETRY_SECONDS / 4)


def _bounded_init(address: str, namespace: str) -> None:
    """`ray.init` with a limit, in a thread: its waiting cannot be interrupted otherwise."""
    failures: list[BaseException] = []

    def init() -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        # Ray prints the cluster's own errors between our lines whatever `log_to_driver` says;
        # its debugger uses this switch too.
        ray._private.worker._worker_logs_enabled = False
        try:
            ray.init(
                address=address,
                namespace=namespace,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=init, name="ray-init", daemon=True)
    deadline = time.monotonic() + INIT_SECONDS
    with kept(), _native_messages() as messages:
        thread.start()
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(_RETRY_SECONDS)
            if "InvalidAuthToken" in messages():
                raise RuntimeError("InvalidAuthToken")
    if thread.is_alive():
        raise RuntimeError(f"no answer within {INIT_SECONDS:.0f} s")
    if failures:
        raise failures[0]


@contextmanager
def _native_messages() -> Iterator[Callable[[], str]]:
    """Take what Ray's C++ side writes to stderr, where it says what its exceptions do not."""
    with tempfile.TemporaryFile() as taken:
        before = os.dup(2)
        os.dup2(taken.fileno(), 2)
        try:
            yield lambda: os.pread(taken.fileno(), 1 << 16, 0).decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)


def _translated(address: str, error: Exception) -> ClusterError:
    text = str(error)
    if "ersion mismatch" in text:
        theirs = next((v for v in _VERSIONS.findall(text) if v != ray.__version__), "another one")
        return ClusterError(
            "CAI-CLUSTER-008", f"{_named(address)} is {theirs}, here is {ray.__version__}"
        )
    if "uthent" in text or "oken" in text:
        return ClusterError("CAI-CLUSTER-007", f"{_named(address)} refuses the token")
    return ClusterError("CAI-CLUSTER-007", _unreachable(address, error))


def _named(address: str) -> str:
    return "the Ray found on this machine" if address == "auto" else f"the Ray at {address}"


def _unreachable(address: str, error: Exception) -> str:
    if address == "auto":
        return "no running Ray found on this machine (provider.address is auto)"
    first = str(error).strip().splitlines()
    return f"no usable Ray at {address}: {first[0] if first else type(error).__name__}"


@contextmanager
def _token(path: Path | None) -> Iterator[None]:
    """Ray reads its token from these variables when it connects, and from the file last."""
    if path is None:
        yield
        return
    before = {name: os.environ.pop(name, None) for name in (_TOKEN_VARIABLE, "RAY_AUTH_TOKEN")}
    os.environ[_TOKEN_VARIABLE] = str(path)
    # Ray keeps the first token that a process finds, also for another cluster.
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        del os.environ[_TOKEN_VARIABLE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
