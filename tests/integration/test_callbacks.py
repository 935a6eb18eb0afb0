"""Callbacks on live replicas of the echo engine: order, processes, effects, failures."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import Cai, Cluster, ask, echo_spec, short_folder, until

from ray_serve_cai.callbacks.hooks import HOOKS
from ray_serve_cai.demo import model_dir

pytestmark = pytest.mark.ray

RECORDER = '''
import json, os
from ray_serve_cai.callbacks.hooks import HOOKS

def note(path, **row):
    with open(path, "a") as file:
        file.write(json.dumps(row | {"pid": os.getpid()}, default=str) + "\\n")

class Recorder:
    """Writes each hook down, then does what `deeds` says for it."""
    def __init__(self, path, name="one", deeds=None):
        self.path, self.name, self.deeds = path, name, deeds or {}

def hook(name):
    def run(self, it):
        is_error = isinstance(it, BaseException)
        row = {"hook": name, "name": self.name, "cwd_has_code": os.environ.get("PYTHONPATH", "")}
        if is_error:
            row["error"] = str(it)
        else:
            row |= {"placement": it.placement_group, "data": {**it.custom_data},
                    "env": os.environ.get("FROM_HOOK"), "download": str(it.download_result)}
        note(self.path, **row)
        return eval(self.deeds.get(name, "None"), {"ctx": it, "os": os, "self": self})
    return run

for name in HOOKS:
    setattr(Recorder, name, hook(name))
'''
START = [hook for hook in HOOKS if hook not in ("on_failure", "on_drain", "on_shutdown")]
END = ["on_drain", "on_shutdown"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        (folder / "callbacks").mkdir()
        (folder / "callbacks" / "recorder.py").write_text(RECORDER)
        made = Cluster.up(Cai(folder), "hooked")
        yield made
        made.down_without_trace()


class Notes:
    """What the recorders of one test wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def hooks(self, name: str = "one") -> list[str]:
        return [row["hook"] for row in self.rows() if row["name"] == name]

    def row(self, hook: str) -> dict[str, Any]:
        (found,) = [row for row in self.rows() if row["hook"] == hook]
        return found


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes.jsonl")


def recorder(notes: Notes, name: str = "one", **keys: Any) -> dict[str, Any]:
    deeds = keys.pop("deeds", {})
    kwargs = {"path": str(notes.path), "name": name, "deeds": deeds}
    return {"class": "callbacks.recorder.Recorder", "kwargs": kwargs} | keys


def fails(cluster: Cluster, name: str, notes: Notes, **keys: Any) -> str:
    """The error of a deployment that a hook makes fail; nothing of it is left."""
    before = {p.pid for p in cluster.processes()}
    done = cluster.deploy(name, callbacks=[recorder(notes, **keys)])
    assert done.returncode == 1, done.stderr
    until(lambda: not hosts(cluster) - before, 30, "the end of the failed replica's processes")
    return done.stderr


def hosts(cluster: Cluster) -> set[int]:
    return {p.pid for p in cluster.commands("ray_serve_cai.serving.host")}


def test_all_points_in_order(cluster: Cluster, notes: Notes) -> None:
    cluster.deploy_ok("order", callbacks=[recorder(notes), recorder(notes, "two")])
    assert ask(cluster.client(), "order") == "What is cai?"
    assert notes.hooks("one") == notes.hooks("two") == START
    names = [row["name"] for row in notes.rows()]
    assert names[:2] == ["one", "two"], "in the order of the list"
    pids = {row["hook"]: row["pid"] for row in notes.rows()}
    (host,) = hosts(cluster)
    assert pids.pop("on_pre_placement_group") != host
    assert set(pids.values()) == {host}
    placed = [row for row in notes.rows() if row["hook"] == "on_post_placement_group"]
    assert placed[0]["placement"]["bundles"] == [{"CPU": 1.0}]
    cluster.delete("order")
    assert notes.hooks("one")[-2:] == notes.hooks("two")[-2:] == END
    last = [row["name"] for row in notes.rows() if row["hook"] == "on_shutdown"]
    assert last == ["two", "one"], "in reverse"


def test_effects_of_the_context(cluster: Cluster, notes: Notes, tmp_path: Path) -> None:
    deeds = {
        "on_pre_placement_group": "ctx.placement_group.update(bundles=[{'CPU': 2}]) or "
        "ctx.custom_data.update(from_deploy=1)",
        "on_before_node_init": "setattr(ctx, 'runtime_env', {'env_vars': {'FROM_HOOK': 'yes'}})",
        "on_pre_engine_init": "ctx.extra_init_kwargs.update(tokens_per_second=500)",
    }
    cluster.deploy_ok("effects", callbacks=[recorder(notes, deeds=deeds)])
    assert notes.row("on_post_placement_group")["placement"]["bundles"] == [{"CPU": 2}]
    assert notes.row("on_before_node_init")["data"] == {"from_deploy": 1}
    assert notes.row("on_pre_download")["env"] == "yes"
    (host,) = cluster.commands("ray_serve_cai.serving.host")
    assert ask(cluster.client(), "effects") == "What is cai?"
    cluster.delete("effects")
    assert not host.is_running()


@pytest.mark.parametrize(
    ("hook", "missing"),
    [
        ("on_pre_download", {"on_before_download_model_files_distributed"}),
        (
            "on_pre_initialization",
            {
                "on_before_download",
                "on_pre_download",
                "on_before_download_model_files_distributed",
                "on_after_node_init",
                "on_post_download",
            },
        ),
        ("on_before_node_init", set()),
    ],
)
def test_false_skips(cluster: Cluster, notes: Notes, hook: str, missing: set[str]) -> None:
    deeds = {hook: "False"}
    cluster.deploy_ok("skips", callbacks=[recorder(notes, deeds=deeds)])
    assert notes.hooks() == [name for name in START if name not in missing]
    cluster.delete("skips")


def test_false_without_a_placement_reserves_nothing(cluster: Cluster, notes: Notes) -> None:
    deeds = {"on_pre_placement_group": "False"}
    cluster.deploy_ok("free", callbacks=[recorder(notes, deeds=deeds)])
    assert notes.row("on_post_placement_group")["placement"]["bundles"] == []
    cluster.delete("free")


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("__import__('time').sleep(60)", "TimeoutError: not done after 1 s"),
        ("setattr(ctx, 'extra_init_kwargs', 5)", "ctx.extra_init_kwargs must be a dict"),
        ("os._exit(7)", "the engine host died in on_pre_download of callbacks.recorder.Recorder"),
        ("os.kill(os.getpid(), 9)", "(signal 9)"),
        ("setattr(ctx, 'placement_group', {})", "set it in on_pre_placement_group"),
    ],
)
def test_hook_that_fails(cluster: Cluster, notes: Notes, deed: str, said: str) -> None:
    said_on_stderr = fails(cluster, "bad", notes, deeds={"on_pre_download": deed}, timeout="1s")
    assert said in said_on_stderr
    assert "CAI-CALLBACK-001" in said_on_stderr
    assert "callbacks.recorder.Recorder" in said_on_stderr
    last = [hook for hook in notes.hooks() if hook in ("on_failure", "on_shutdown")]
    assert last == ["on_failure", "on_shutdown"], "once each"
    assert "on_post_download" not in notes.hooks()


def test_error_names_hook_class_node_and_model(cluster: Cluster, notes: Notes) -> None:
    said = fails(cluster, "named", notes, deeds={"on_post_engine_init": "1 / 0"})
    expected = "on_post_engine_init of callbacks.recorder.Recorder failed on node head for model"
    assert expected in said
    log = cluster.cai.ok("model", "logs", "named", "--cluster", cluster.name).stdout
    assert "Traceback" in log
    assert "ZeroDivisionError" in log


def test_logged_failures_do_not_stop_it(cluster: Cluster, notes: Notes) -> None:
    deeds = {"on_pre_download": "1 / 0", "on_pre_engine_init": "setattr(ctx, 'custom_data', 1)"}
    cluster.deploy_ok("soft", callbacks=[recorder(notes, deeds=deeds, on_error="log")])
    assert notes.hooks() == START
    cluster.delete("soft")


def test_failing_teardown_does_not_stop_the_others(cluster: Cluster, notes: Notes) -> None:
    bad = recorder(notes, "bad", deeds={"on_drain": "1 / 0", "on_shutdown": "1 / 0"})
    cluster.deploy_ok("teardown", callbacks=[recorder(notes), bad])
    cluster.delete("teardown")
    assert notes.hooks("one")[-2:] == notes.hooks("bad")[-2:] == END


def test_teardown_that_ends_its_process_takes_nobody_s_turn(
    cluster: Cluster, notes: Notes
) -> None:
    bad = recorder(notes, "bad", deeds={"on_shutdown": "os._exit(3)"})
    cluster.deploy_ok("exits", callbacks=[recorder(notes), bad])
    cluster.delete("exits")
    assert notes.hooks("one")[-2:] == notes.hooks("bad")[-2:] == END


def test_placement_hook_that_ends_its_process(cluster: Cluster, notes: Notes) -> None:
    done = cluster.deploy(
        "exits", callbacks=[recorder(notes, deeds={"on_pre_placement_group": "os._exit(3)"})]
    )
    assert done.returncode == 1
    said = "on_pre_placement_group of callbacks.recorder.Recorder ended its process (status 3)"
    assert f"CAI-CALLBACK-001: {said} on node " in done.stderr
    assert 'for model "exits"' in done.stderr
    assert notes.hooks() == ["on_pre_placement_group"]


def test_placement_groups_of_hooks_are_removed(cluster: Cluster, notes: Notes) -> None:
    make = (
        "setattr(ctx, 'placement_group', "
        "__import__('ray').util.placement_group([{'CPU': 3}], strategy='PACK'))"
    )
    both = [recorder(notes, name, deeds={"on_pre_placement_group": make}) for name in ("a", "b")]
    cluster.deploy_ok("groups", callbacks=both)
    placed = [row for row in notes.rows() if row["hook"] == "on_post_placement_group"]
    assert placed[0]["placement"] == {"bundles": [{"CPU": 3.0}], "strategy": "PACK"}
    cluster.delete("groups")


def test_killed_host(cluster: Cluster, notes: Notes) -> None:
    cluster.deploy_ok("killed", callbacks=[recorder(notes)])
    (host,) = hosts(cluster)
    os.kill(host, 9)
    until(lambda: notes.hooks().count("on_ready") == 2, 60, "the next replica")
    first = notes.hooks()[len(START) :]
    assert [first.count(hook) for hook in ("on_failure", "on_shutdown")] == [1, 1]
    cluster.delete("killed")
    assert notes.hooks().count("on_shutdown") == 2


def test_killed_replica(cluster: Cluster, notes: Notes) -> None:
    cluster.deploy_ok("orphan", callbacks=[recorder(notes)])
    (host,) = hosts(cluster)
    parent = psutil.Process(host).parent()
    assert parent is not None
    parent.kill()
    until(lambda: notes.hooks().count("on_shutdown") == 1, 30, "the last hook of the orphan")
    until(lambda: host not in hosts(cluster), 30, "the end of its host")
    assert notes.row("on_failure")["error"] == "the replica has died"
    until(lambda: notes.hooks().count("on_ready") == 2, 60, "the next replica")
    cluster.delete("orphan")
    assert [notes.hooks().count(hook) for hook in ("on_failure", "on_shutdown")] == [1, 2]


def test_interrupted_deploy_shuts_down(cluster: Cluster, notes: Notes) -> None:
    slow = recorder(notes, deeds={"on_pre_engine_init": "__import__('time').sleep(60)"})
    spec = cluster.cai.write("slow.yaml", echo_spec("slow", callbacks=[slow]))
    process = cluster.cai.start("model", "deploy", spec, "--cluster", cluster.name)
    until(lambda: notes.path.exists() and "on_pre_engine_init" in notes.hooks(), 60, "the hook")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    until(lambda: "on_shutdown" in notes.hooks(), 60, "the last hook")
    until(lambda: not hosts(cluster), 30, "the end of the host")
    assert notes.hooks().count("on_shutdown") == 1


def test_more_gpus_than_reserved(cluster: Cluster, notes: Notes) -> None:
    deeds = {"on_pre_engine_init": "ctx.extra_init_kwargs.update(tensor_parallel_size=4)"}
    said = fails(cluster, "greedy", notes, deeds=deeds)
    assert "asked for 4 GPUs" in said
    assert "0 are reserved" in said


def test_deleted_model_folder(cluster: Cluster, notes: Notes, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(model_dir(), copy)
    deeds = {"on_post_download": f"__import__('shutil').rmtree({str(copy)!r})"}
    done = cluster.deploy("gone", source=str(copy), callbacks=[recorder(notes, deeds=deeds)])
    assert done.returncode != 0
    assert f"{copy}: there is no such folder" in done.stderr


def test_hung_teardown_keeps_no_other_hook_from_running(cluster: Cluster, notes: Notes) -> None:
    hung = recorder(
        notes, "hung", deeds={"on_drain": "__import__('time').sleep(600)"}, timeout="1s"
    )
    cluster.deploy_ok("hung", callbacks=[recorder(notes), hung])
    cluster.delete("hung")
    assert notes.hooks("one")[-2:] == notes.hooks("hung")[-2:] == END


def test_secrets_of_a_failing_hook_are_nowhere(cluster: Cluster, notes: Notes) -> None:
    secret = "s3cr3t-0123456789"
    deed = "(_ for _ in ()).throw(ValueError('refused: ' + self.name))"
    callback = recorder(notes, "https://u:${MY_TOKEN}@host", deeds={"on_pre_download": deed})
    spec = cluster.cai.write("leaky.yaml", echo_spec("leaky", callbacks=[callback]))
    done = cluster.cai(
        "model", "deploy", spec, "--cluster", cluster.name, env={"MY_TOKEN": secret}
    )
    assert done.returncode == 1
    assert "ValueError: refused: ***" in done.stderr
    log = cluster.cai.ok("model", "logs", "leaky", "--cluster", cluster.name).stdout
    assert "ValueError: refused" in log
    assert secret not in done.stderr + log
    records = (cluster.folder / "models" / "leaky").glob("*.json")
    assert not any(secret in path.read_text() for path in records)


def test_edited_code_is_a_new_revision_and_the_old_one_keeps_its_own(
    cluster: Cluster, notes: Notes
) -> None:
    path = cluster.cai.folder / "callbacks" / "edited.py"
    text = "from callbacks.recorder import note\nclass Mine:\n    def __init__(self, path):\n"
    text += (
        "        self.path = path\n    def on_ready(self):\n        note(self.path, name={!r})\n"
    )
    path.write_text(text.format("old"))
    keys = {"callbacks": [{"class": "callbacks.edited.Mine", "kwargs": {"path": str(notes.path)}}]}
    cluster.deploy_ok("edited", **keys)
    assert "nothing to do" in cluster.deploy("edited", **keys).stderr
    path.write_text(text.format("new").replace("note(", "1 / 0; note("))
    assert cluster.deploy("edited", **keys).returncode == 1
    cluster.cai.ok("model", "scale", "edited", "2", "--cluster", cluster.name)
    cluster.cai.ok("model", "wait", "edited", "--cluster", cluster.name)
    assert [row["name"] for row in notes.rows()] == ["old", "old"]
    path.write_text(text.format("newer"))
    cluster.deploy_ok("edited", **keys)
    assert notes.rows()[-1]["name"] == "newer"
    cluster.delete("edited")
    path.unlink()


def test_checked_before_anything_is_held(cluster: Cluster) -> None:
    for path, said in (
        ("callbacks.recorder.Recordr", 'did you mean "Recorder"'),
        ("callbacks.recordr.Recorder", 'has no module "recordr"; did you mean "recorder"'),
    ):
        done = cluster.deploy("wrong", callbacks=[{"class": path}])
        assert done.returncode == 2
        assert said in done.stderr


def test_plan_names_who_decides(cluster: Cluster, notes: Notes) -> None:
    spec = cluster.cai.write("plan.yaml", echo_spec("plan", callbacks=[recorder(notes)]))
    plan = cluster.cai.json("model", "plan", spec, "--cluster", cluster.name)
    assert "placement decided by callbacks.recorder.Recorder" in " ".join(plan["notes"])
    assert not notes.path.exists(), "no hook ran"


def test_two_nodes_each_run_the_hook_once(notes: Notes) -> None:
    with short_folder() as folder:
        (folder / "callbacks").mkdir()
        (folder / "callbacks" / "recorder.py").write_text(RECORDER)
        cai = Cai(folder)
        two = [{"name": "side", "count": 1, "cpu": 2, "memory": "1Gi"}]
        made = Cluster.up(cai, "pair", head={"cpu": 2, "memory": "1Gi"}, workers=two)
        try:
            bundles = "ctx.placement_group.update(bundles=[{'CPU': 1}, {'CPU': 1}]"
            deeds = {
                "on_pre_placement_group": f"{bundles}, strategy='STRICT_SPREAD')",
                "on_before_download_model_files_distributed": "ctx.custom_data.update(pid="
                "os.getpid())",
            }
            made.deploy_ok("wide", callbacks=[recorder(notes, deeds=deeds)])
            each = [r for r in notes.rows() if r["hook"].endswith("files_distributed")]
            assert len({row["pid"] for row in each}) == len(each) == 2
            result = notes.row("on_post_download")["download"]
            assert "'head'" in result
            assert "'side-0'" in result
            made.delete("wide")
            only_there = "__import__('sys').modules['__main__'].__spec__.name.endswith('.part')"
            deeds["on_before_download_model_files_distributed"] = f"1 / 0 if {only_there} else 0"
            said = fails(made, "wide", notes, deeds=deeds)
            # The engine's own node is any of the two.
            assert re.search("failed on node (side-0|head) for model", said), said
        finally:
            cai.ok("cluster", "down", "pair", "--yes")
