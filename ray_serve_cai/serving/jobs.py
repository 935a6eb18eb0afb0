"""From a document to what its replicas are told."""

from __future__ import annotations

import logging
import os

from ray_serve_cai.cluster.state import ClusterRecord, ClusterState, now
from ray_serve_cai.engines.registry import get_registry
from ray_serve_cai.plan.model import ModelPlan
from ray_serve_cai.plan.parallel import over_nodes, with_executor
from ray_serve_cai.plan.scaling import range_of
from ray_serve_cai.serving.code import pack
from ray_serve_cai.serving.job import ReplicaJob, merged
from ray_serve_cai.serving.placement import callbacks_of, default_placement
from ray_serve_cai.serving.revisions import RevisionRecord
from ray_serve_cai.spec import Document

log = logging.getLogger(__name__)

VALIDATE = "CAI_VALIDATE"


def new_revision(
    document: Document, plan: ModelPlan, repeats: int | None = None
) -> RevisionRecord:
    """The record of a deploy that begins, `repeats` that of a rollback."""
    return RevisionRecord(
        model=plan.name,
        revision=plan.revision,
        state="starting",
        raw=document.raw,
        spec_path=str(document.path),
        project=str(document.project),
        digest=plan.digest,
        engine=plan.engine,
        transport=plan.transport,
        replicas=plan.replicas,
        created=now(),
        steps=[[step.new, step.old] for step in plan.steps],
        repeats=repeats,
        range=range_of(document.model.replicas),
    )


def job_of(
    state: ClusterState,
    cluster: ClusterRecord,
    document: Document,
    record: RevisionRecord,
    timeout: float,
    code: str,
) -> ReplicaJob:
    """The job of a revision's replicas. `timeout`: seconds that each may take to start; `code`:
    what `code_of` packed at the deploy."""
    spec = document.model
    callbacks = [each.to_json() for each in callbacks_of(document)]
    placement = record.placement or default_placement(spec.resources)
    bundles, args = merged(placement), dict(spec.engine.args)
    engine = get_registry().get(spec.engine.type).name
    if engine == "vllm":
        args = with_executor(args, bundles)
    return ReplicaJob(
        cluster=cluster.name,
        model=spec.name,
        revision=record.revision,
        source=str(document.source),
        engine=engine,
        engine_args=args,
        transport=record.transport,
        env=dict(spec.env),
        log_folder=str(state.logs),
        api_keys=_worker_keys(state, cluster),
        gpu=0 if over_nodes(args) else next(iter(bundles), {}).get("GPU", 0),
        start_timeout=timeout,
        project=str(document.project),
        callbacks=tuple(callbacks),
        placement=placement,
        custom_data=record.custom_data,
        code=code,
        storage_options=dict(spec.storage_options),
        shutdown_timeout=spec.shutdown_timeout,
        probe_every=spec.health.probe_every,
        probe_timeout=spec.health.probe_timeout,
        # With --debug, and wherever tests say so.
        debug=log.isEnabledFor(logging.DEBUG) or VALIDATE in os.environ,
    )


def code_of(document: Document) -> str:
    """The project's own packages that the model names, as they are now."""
    engine = get_registry().get(document.model.engine.type).name
    # The name of a registered engine is no path, though the project may have a folder called so.
    paths = [engine] if "." in engine or ":" in engine else []
    return pack(document.project, [*paths, *(each.name for each in callbacks_of(document))])


def _worker_keys(state: ClusterState, cluster: ClusterRecord) -> tuple[str, ...]:
    """What an HTTP replica must accept: the gateway's own key for its questions, and the
    clients' keys, which the gateway hands on with their requests."""
    keys = _keys(state, cluster)
    return (state.internal_key(), *keys) if keys else ()


def _keys(state: ClusterState, cluster: ClusterRecord) -> tuple[str, ...]:
    return state.document(cluster).cluster.gateway.api_keys
