"""The checklist of `cai doctor --cloudera`: its parts, in order, without secrets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from ray_serve_cai.cli.cloudera_applications import application_trials
from ray_serve_cai.cli.cloudera_library import library_checks
from ray_serve_cai.cli.cloudera_pod import pod_checks, tried
from ray_serve_cai.cli.cloudera_rest import rest_checks
from ray_serve_cai.cli.cloudera_workers import gpu_trial, worker_trial
from ray_serve_cai.cli.doctor_checks import Check
from ray_serve_cai.errors import ClusterError
from ray_serve_cai.spec.masking import is_secret_name, scrub

Report = Callable[..., None]


def run_checklist(report: Report, *, start: bool) -> list[Check]:
    """Every check; those that start something, and so cost money, with `start` alone.

    Raises `ClusterError` (CAI-PROVIDER-001) outside a Cloudera AI workload.
    """
    if not os.environ.get("CDSW_PROJECT_ID"):
        raise ClusterError("CAI-PROVIDER-001", "CDSW_PROJECT_ID is not set")
    report("looking", "at this pod, the library and REST API v2")
    checks = [*pod_checks(os.environ), *library_checks(), *rest_checks()]
    if start:
        report("trying", "a worker of half a CPU")
        checks += worker_trial(report)
        report("trying", "a worker that asks for too many GPUs")
        checks.append(tried("too many GPUs", gpu_trial))
        for name, trial in application_trials().items():
            report("trying", name)
            checks.append(tried(name, trial))
    return [_without_secrets(check) for check in checks]


def _without_secrets(check: Check) -> Check:
    values = [value for name, value in os.environ.items() if is_secret_name(name)]
    return replace(check, found=scrub(check.found, values), hint=scrub(check.hint, values))
