"""What the workloads of one project share: the home folder, the keys, the variables."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fakes.cloudera.network import Network

OWNER, NAME, NUMBER = "ann", "demo", 42
ALPHABET = string.ascii_lowercase + string.digits


def new_id() -> str:
    """As the platform's engines are called; also the pod's host name."""
    return "".join(secrets.choice(ALPHABET) for _ in range(16))


@dataclass
class Project:
    """`folder` must have a short path, since Ray puts sockets below the pods' `/tmp`.

    Without a `network` workloads run beside each other on this machine, which needs no root.
    `domain` is `host:port` of whatever serves the platform's HTTP. `environment` is what the user
    set for the project, `addons` the folders that the platform puts on PYTHONPATH, and `path` the
    workloads' PATH.
    """

    folder: Path
    network: Network | None = None
    domain: str = "cml.invalid"
    scheme: str = "http"
    id: str = "ab12-cd34-ef56-gh78"
    api_key: str = field(default_factory=lambda: secrets.token_hex(16))
    apiv2_key: str = field(default_factory=lambda: secrets.token_hex(32))
    environment: dict[str, str] = field(default_factory=dict)
    addons: Sequence[Path] = ()
    path: str = field(default_factory=lambda: os.environ["PATH"])

    def __post_init__(self) -> None:
        for folder in (self.home, self.temp, self.pods):
            folder.mkdir(parents=True, exist_ok=True)
        self.hosts.write_text("127.0.0.1 localhost\n")

    @property
    def home(self) -> Path:
        """`/home/cdsw`: one for all pods."""
        return self.folder / "home"

    @property
    def temp(self) -> Path:
        """`/tmp`: the same path in every pod, and another folder behind it."""
        return self.folder / "t"

    @property
    def pods(self) -> Path:
        """What belongs to the pods one by one: their consoles, and what is behind `temp`."""
        return self.folder / "pods"

    @property
    def hosts(self) -> Path:
        """`/etc/hosts` of the pods, in the place of the platform's name server."""
        return self.folder / "hosts"

    def give_name(self, subdomain: str) -> None:
        """Let pods find `<subdomain>.<domain>`; it leads to the platform's proxy."""
        host = self.domain.partition(":")[0]
        # In place, since the pods have this very file.
        with self.hosts.open("a") as file:
            file.write(f"{host} {subdomain}.{host}\n")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.domain}"

    @property
    def project_url(self) -> str:
        return f"{self.url}/api/v1/projects/{OWNER}/{NAME}"

    def variables(self, *, temp: Path, own: Mapping[str, str]) -> dict[str, str]:
        """A workload's whole environment; `own` is what differs from pod to pod."""
        python = [str(folder) for folder in self.addons]
        python += [text for text in [os.environ.get("PYTHONPATH", "")] if text]
        return {
            "PATH": self.path,
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "TMPDIR": str(temp),
            "PYTHONPATH": os.pathsep.join(python),
            "CDSW_PROJECT_ID": self.id,
            "CDSW_PROJECT_NUM": str(NUMBER),
            "CDSW_PROJECT": NAME,
            "CDSW_PROJECT_URL": self.project_url,
            "CDSW_API_URL": f"{self.url}/api/v1",
            "CDSW_API_KEY": self.api_key,
            "CDSW_APIV2_KEY": self.apiv2_key,
            "CDSW_DOMAIN": self.domain,
            "CDSW_CREATOR": OWNER,
            "PROJECT_OWNER": OWNER,
            "HADOOP_USER_NAME": OWNER,
            "CDSW_NODE_NAME": "node-1.cml.invalid",
            "ML_RUNTIME_EDITOR": "PBJ Workbench",
            "ML_RUNTIME_EDITION": "Standard",
            "ML_RUNTIME_KERNEL": "Python 3.11",
            "ML_RUNTIME_SHORT_VERSION": "2026.06",
            "IDLE_MAXIMUM_MINUTES": "60",
            "SESSION_MAXIMUM_MINUTES": "10080",
            "JOB_MAXIMUM_MINUTES": "10080",
            **self.environment,
            **own,
        }
