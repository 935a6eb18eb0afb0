"""The real `cai` as a process, the clusters it makes, and waiting without sleeping blindly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml

from ray_serve_cai.providers.processes import FOLDER_MARK, NODE_MARK, kill_marked, marked

T = TypeVar("T")
POLL_SECONDS = 0.1
PAUSE_SECONDS = 0.03
COMMAND_SECONDS = 150.0
# Several engines that start at once, on a machine with other work.
TOGETHER_SECONDS = 480.0


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The first true value of `condition`; fails the test when it does not come in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)
    return found


@contextmanager
def short_folder() -> Iterator[Path]:
    """In /tmp, since Ray puts Unix sockets in its folders and their paths end at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="cai", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cai:
    """Runs `cai` with everything that it writes below `folder`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    # All that the commands have printed.
    said: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "h"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "CAI_", "CDSW_")) or name == "CAI_CI"
        }
        own = {
            "HOME": str(self.folder / "u"),
            "CAI_HOME": str(self.home),
            "CAI_VALIDATE": "1",
            "CAI_CACHE": str(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        return {**kept, **own, **self.env, **(extra or {})}

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """The command as a process of its own session, to be waited for or killed."""
        (self.folder / "u").mkdir(exist_ok=True)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-m", "ray_serve_cai", *map(str, words)],
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            env=self.environment(options.pop("env", None)),
            **options,
        )

    def __call__(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, env=env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"cai {words} ran past {timeout} s\n{out}\n{err}") from None
        self.said += [out, err]
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ok(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        done = self(*words, **options)
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, f"cai {words}: {done.returncode}\n{said}"
        return done

    def json(self, *words: str | Path, **options: Any) -> dict[str, Any]:
        """The one object that the command prints with --json."""
        done = self.ok(*words, "--json", **options)
        data: dict[str, Any] = json.loads(done.stdout)
        assert data["schema"] == "cai/v1"
        return data

    def write(self, name: str, *documents: Mapping[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        return path

    def state(self, cluster: str) -> Path:
        return self.home / "clusters" / cluster

    def end_everything(self) -> None:
        """Kill what a failed test left, by the mark in its environment."""
        for path in (self.home / "clusters").glob("*"):
            kill_marked(path)
            record = path / "cluster.json"
            if record.is_file() and (temp := json.loads(record.read_text())["temp_folder"]):
                shutil.rmtree(temp, ignore_errors=True)


def cluster_spec(name: str, **keys: Any) -> dict[str, Any]:
    """A small local cluster on free ports."""
    spec = {
        "kind": "Cluster",
        "name": name,
        "head": {"cpu": 4, "memory": "1Gi"},
        "ray": {"port": "auto", "object_store_memory": "100Mi"},
        "gateway": {"port": "auto"},
    }
    return spec | keys


def echo_spec(name: str, **keys: Any) -> dict[str, Any]:
    """A model that answers with its own prompt."""
    return {
        "kind": "Model",
        "name": name,
        "source": "builtin:demo",
        "engine": {"type": "echo"},
        "resources": {"cpu": 1},
    } | keys


@dataclass
class Cluster:
    """A cluster that is up."""

    cai: Cai
    name: str
    spec: Path
    url: str
    key: str | None = None

    @classmethod
    def up(cls, cai: Cai, name: str, key: str | None = None, **keys: Any) -> Cluster:
        spec = cai.write(f"{name}.yaml", cluster_spec(name, **keys))
        done = cai.ok("cluster", "up", spec)
        return cls(cai, name, spec, done.stdout.strip().splitlines()[-1], key)

    @property
    def folder(self) -> Path:
        return self.cai.state(self.name)

    def deploy(self, name: str, **keys: Any) -> subprocess.CompletedProcess[str]:
        spec = self.cai.write(f"model-{name}.yaml", echo_spec(name, **keys))
        return self.cai("model", "deploy", spec, "--cluster", self.name)

    def deploy_ok(self, name: str, **keys: Any) -> None:
        done = self.deploy(name, **keys)
        assert done.returncode == 0, done.stderr

    def model(self, name: str) -> dict[str, Any]:
        found = self.cai.json("model", "status", name, "--cluster", self.name)
        row: dict[str, Any] = found["models"][0]
        return row

    def delete(self, name: str) -> None:
        self.cai.ok("model", "delete", name, "--cluster", self.name, "--yes")

    def client(self, key: str | None = None) -> Any:
        from openai import OpenAI

        return OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key or "none", max_retries=0, timeout=60
        )

    def processes(self, node: str | None = None) -> list[psutil.Process]:
        return list(marked(self.folder, node))

    def commands(self, *words: str) -> list[psutil.Process]:
        """The cluster's processes whose command line holds all of `words`."""
        return [p for p in self.processes() if all(word in command_line(p) for word in words)]

    def node_states(self) -> dict[str, str]:
        status = self.cai.json("cluster", "status", self.name)
        return {node["id"]: node["state"] for node in status["nodes"]}

    def down_without_trace(self) -> None:
        record = json.loads((self.folder / "cluster.json").read_text())
        # By descent too: a process that renames itself can overwrite the mark in its environment.
        before = {child for p in self.processes() for child in (p, *children(p))}
        self.cai.ok("cluster", "down", self.name, "--yes")
        assert [p for p in before if runs(p)] == []
        assert self.processes() == []
        assert {path.name for path in self.folder.iterdir()} == {"logs"}
        assert not Path(record["temp_folder"]).exists()


def deploy_together(cluster: Cluster, spec: Path, models: Sequence[str]) -> None:
    """Deploy the file's models at once: an engine's start is mostly imports on one core."""
    cluster.cai.ok("model", "deploy", spec, "--cluster", cluster.name, "--no-wait")
    for name in models:
        wait = ("model", "wait", name, "--cluster", cluster.name)
        cluster.cai.ok(*wait, timeout=TOGETHER_SECONDS)


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def browser() -> str | None:
    """The path of a browser of Chromium's kind: Debian's, or that of hosted runners."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Asker:
    """Keeps asking one model in threads of its own until the block ends; no retries."""

    def __init__(self, client: Any, model: str, threads: int = 1) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._client, self._model = client, model
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(threads)]

    def __enter__(self) -> Asker:
        for thread in self._threads:
            thread.start()
        self.wait_for(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Return after that many further answers."""
        goal = self.answers + answers
        until(lambda: self.answers >= goal or self.failures, 60, f"{answers} answers")

    def _ask_on(self) -> None:
        while not self._done.is_set():
            try:
                reply = ask(self._client, self._model)
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(POLL_SECONDS)
            else:
                assert reply
                self.answers += 1
            # As a person would: an unbroken stream of questions takes a core of two.
            self._done.wait(PAUSE_SECONDS)


def ask(client: Any, model: str, text: str = "What is cai?", **options: Any) -> str:
    """One plain chat answer."""
    options = {"max_tokens": 8, "temperature": 0, **options}
    messages = [{"role": "user", "content": text}]
    reply = client.chat.completions.create(model=model, messages=messages, **options)
    content: str = reply.choices[0].message.content
    return content


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def marks_of(process: psutil.Process) -> tuple[str | None, str | None]:
    environment = process.environ()
    return environment.get(FOLDER_MARK), environment.get(NODE_MARK)
