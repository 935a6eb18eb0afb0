"""Trials of `cai doctor --cloudera --start` on REST API v2: applications made and removed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray_serve_cai.cli.cloudera_pod import finding
from ray_serve_cai.cli.doctor_checks import Check
from ray_serve_cai.errors import ClusterError

if TYPE_CHECKING:
    from ray_serve_cai.providers.cai_api import Api

CPU, MEMORY = 0.5, 1.0
VARIABLE = "CAI_DOCTOR"
# A capital, an underscore and a hyphen at the end: each is against the platform's rule.
WRONG_SUBDOMAIN = "Cai_Doctor-"
KEYS = ("id", "name", "script", "subdomain", "status", "created_at", "cpu", "memory", "nvidia_gpu")


def application_trials() -> dict[str, Callable[[], Check]]:
    """Each makes one application and removes it, whatever happens in between."""
    return {
        "application environment": _environment_trial,
        "wrong subdomain": _subdomain_trial,
    }


def _environment_trial() -> Check:
    from ray_serve_cai.providers.cai_api import Api, environment_of

    api = Api.from_environment()
    token = secrets.token_hex(4)
    with _application(api, token, f"cai-doctor-{token}") as made:
        rows = [row for row in api.applications() if row["id"] == made["id"]]
        row = rows[0] if rows else {}
    kind = type(row.get("environment")).__name__
    missing = [key for key in KEYS if key not in row]
    kept = environment_of(row).get(VARIABLE) == token
    found = f"{'read back' if kept else 'lost'}, as {kind}; status {made.get('status')}"
    found += f"; keys missing: {', '.join(missing) or 'none'}"
    so = "Applications may start without the variables that their nodes need: please report this."
    return finding(
        "application environment", kept and not missing, found, "taken as a map, read back", so
    )


def _subdomain_trial() -> Check:
    from ray_serve_cai.providers.cai_api import Api

    try:
        with _application(Api.from_environment(), secrets.token_hex(4), WRONG_SUBDOMAIN) as made:
            found = f"accepted {WRONG_SUBDOMAIN} as {made.get('subdomain')}"
    except ClusterError as error:
        if error.code != "CAI-PROVIDER-002":
            raise
        return finding("wrong subdomain", True, f"refused: {error.message}", "refused")
    so = "Subdomains that `cai` refuses would work here."
    return finding("wrong subdomain", False, found, "refused", so)


@contextmanager
def _application(api: Api, token: str, subdomain: str) -> Iterator[Mapping[str, Any]]:
    """An application that ends at once, inside the block."""
    from ray_serve_cai.providers.cai_api import own_runtime
    from ray_serve_cai.providers.cai_removal import remove_applications
    from ray_serve_cai.providers.cai_script import project_folder

    script = project_folder() / f"cai_doctor_{token}.py"
    body = {
        "name": f"cai doctor {token}",
        "description": "A check of `cai doctor --cloudera --start`; may be deleted.",
        "subdomain": subdomain,
        "script": script.name,
        "cpu": CPU,
        "memory": MEMORY,
        "nvidia_gpu": 0,
        "environment": {VARIABLE: token},
        "runtime_identifier": own_runtime(api),
    }
    script.write_text('print("a check of cai doctor")\n')
    try:
        yield api.create_application(body)
    finally:
        script.unlink(missing_ok=True)
        named = [row for row in api.applications() if row.get("name") == body["name"]]
        remove_applications(api, [row["id"] for row in named])
