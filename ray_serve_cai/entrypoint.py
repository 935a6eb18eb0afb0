"""What the project's script runs on Cloudera AI: `python -m ray_serve_cai.entrypoint`.

With a node's plan in its variables it becomes that node's agent. Else it runs the `cai` command
line in `JOB_ARGUMENTS` or, where that is empty, in `CAI_ARGUMENTS`, and ends with its status.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ray_serve_cai.errors import FAILED, USAGE, CaiError
from ray_serve_cai.plan.nodes import AGENT_MODULE, FOLDER_VARIABLE, PLAN_VARIABLE, NodePlan

# The first one that is not empty counts.
VARIABLES = ("JOB_ARGUMENTS", "CAI_ARGUMENTS")
# What text fields and word processors make of quotes and of `--`.
PRINTED = "\u201c\u201d\u201e\u2018\u2019\u2013\u2014"


def main() -> None:
    if os.environ.get(PLAN_VARIABLE):
        become_node()
    from ray_serve_cai.cli import output
    from ray_serve_cai.cli.app import run

    try:
        words = command_line(os.environ)
    except CaiError as error:
        output.fail(error, json=False)
        sys.exit(error.exit)
    sys.exit(run(words))


def command_line(environment: Mapping[str, str]) -> list[str]:
    """The words after `cai`.

    Raises `CaiError` (CAI-CLI-001) where there are none, or they cannot be told apart.
    """
    for name in VARIABLES:
        words = _words(name, environment.get(name, ""))
        if words[:1] == ["cai"]:
            words = words[1:]
        if words:
            return words
    raise CaiError(
        "CAI-CLI-001",
        "neither JOB_ARGUMENTS nor CAI_ARGUMENTS holds a `cai` command line",
        hint="Give the job arguments, or set the application's variable CAI_ARGUMENTS, such as "
        "`serve cluster.yaml model.yaml`.",
        exit=USAGE,
    )


def become_node() -> None:
    """Go on as the node agent, its output in the cluster's logs; returns never."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    node = NodePlan.from_json(os.environ[PLAN_VARIABLE])
    if not (folder / "nodes").is_dir():
        # The platform restarts an application by itself, also one whose cluster is down.
        print(f"cai node {node.id}: there is no cluster in {folder}", file=sys.stderr)
        sys.exit(FAILED)
    log = folder / "logs" / f"node-{node.id}.log"
    log.parent.mkdir(exist_ok=True)
    print(f"cai node {node.id}: its output is in {log}", flush=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execv(sys.executable, [sys.executable, "-u", "-m", AGENT_MODULE, str(folder)])


def _words(name: str, text: str) -> list[str]:
    text = text.replace("\u00a0", " ")
    try:
        words = shlex.split(text)
        if len(words) == 1 and len(words[0].split()) > 1:
            # The form's value stood in quotes as a whole.
            words = shlex.split(words[0])
    except ValueError as error:
        raise CaiError("CAI-CLI-001", f"{name}: {error}", hint=_hint(name)) from error
    for word in words:
        if word and word[0] in PRINTED:
            message = f"{name}: a word begins with {word[0]}, which is no plain quote or hyphen"
            raise CaiError("CAI-CLI-001", message, hint=_hint(name))
    return [] if words == [""] else words


def _hint(name: str) -> str:
    return f"{name} is split into words as a shell does it, with plain quotes and hyphens."


if __name__ == "__main__":
    main()
