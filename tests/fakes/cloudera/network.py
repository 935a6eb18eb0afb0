"""The network of one stand-in platform: a bridge with this machine at its first address."""

from __future__ import annotations

import secrets
import subprocess
import threading

SUBNETS = range(1, 255)


class Network:
    """10.88.N.0/24 on the bridge `caifN`; the first free N is taken. Needs root and `ip`.

    A pod's end of a link goes with the pod's namespace; `remove` takes the bridge away.
    """

    def __init__(self) -> None:
        self.number = next((n for n in SUBNETS if _ip(f"link add caif{n} type bridge")), 0)
        if not self.number:
            raise OSError("no bridge could be made: not root, or none of 10.88.N.0/24 is free")
        self.bridge = f"caif{self.number}"
        self._last = 1
        self._lock = threading.Lock()
        self.host = f"10.88.{self.number}.1"
        # By itself a bridge takes the address of one of its ports: another one when that goes, and
        # the pods would talk to the old one for a while.
        _must(f"link set {self.bridge} address 02:88:00:00:00:{self.number:02x}")
        _must(f"addr add {self.host}/24 dev {self.bridge}")
        _must(f"link set {self.bridge} up")

    def new_address(self) -> str:
        with self._lock:
            self._last += 1
            if self._last > 254:
                raise OSError("this network has no address left")
            return f"10.88.{self.number}.{self._last}"

    def connect(self, pid: int) -> str:
        """Give the network namespace of process `pid` an `eth0`, yet without an address; returns
        the name of the link."""
        # Random, since the links of ended pods go some time after them.
        link = f"cv{self.number}-{secrets.token_hex(4)}"
        _must(f"link add {link} type veth peer name eth0 netns {pid}")
        _must(f"link set {link} master {self.bridge} up")
        return link

    def cut(self, link: str) -> None:
        """From now on nothing comes through, not even the end of a connection."""
        _ip(f"link set {link} down")

    def remove(self) -> None:
        _ip(f"link del {self.bridge}")


def _ip(words: str) -> bool:
    return subprocess.run(["ip", *words.split()], check=False, capture_output=True).returncode == 0


def _must(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
