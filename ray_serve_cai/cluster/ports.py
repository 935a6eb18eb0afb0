"""Ports on this machine."""

from __future__ import annotations

import errno
import socket

SPEAK_SECONDS = 5.0


def free_port(host: str) -> int:
    """A TCP port that nothing on `host` listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_taken(host: str, port: int) -> bool:
    """Whether another program listens at host:port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listens(host: str, port: int) -> bool:
    """Whether something takes a connection there; a mesh may do so for one that does not."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def speaks(host: str, port: int, seconds: float = SPEAK_SECONDS) -> bool:
    """Whether a gRPC server, such as Ray's control process, says there what it is."""
    import grpc

    # Pods reach each other past any proxy.
    channel = grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(seconds)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True
