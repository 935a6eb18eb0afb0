"""Models behind one endpoint of a real cluster with an API key: the echo engine answers."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from support import Asker, Cai, Cluster, ask, command_line, short_folder, until

pytestmark = pytest.mark.ray

KEY = "sk-0123456789abcdef"
HUB_TOKEN = "hf_thisIsTheValueOfAToken"
# Room for a replaced replica beside the old ones.
SMALL: dict[str, Any] = {"resources": {"cpu": 0.5}}
SECRET_FILES = {"token", "secrets.json", "gateway.key"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with short_folder() as folder:
        cai = Cai(folder, {"CAI_API_KEY": KEY, "HF_TOKEN": HUB_TOKEN})
        try:
            made = Cluster.up(
                cai, "echoes", KEY, gateway={"port": "auto", "api_keys": ["${CAI_API_KEY}"]}
            )
            made.deploy_ok("steady", env={"HF_TOKEN": "${HF_TOKEN}"}, **SMALL)
            yield made
            made.down_without_trace()
        finally:
            cai.end_everything()


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Any:
    return cluster.client()


def refused(kind: type[openai.APIStatusError], client: Any, model: str) -> dict[str, Any]:
    with pytest.raises(kind) as caught:
        ask(client, model)
    body: Any = caught.value.body
    assert isinstance(body["message"], str)
    return dict(body)


class TestOpenAiClient:
    def test_plain(self, client: Any) -> None:
        reply = client.chat.completions.create(
            model="steady", messages=[{"role": "user", "content": "What is cai?"}], max_tokens=8
        )
        assert reply.choices[0].message.content == "What is cai?"
        assert reply.model == "steady"
        assert reply.usage.total_tokens > reply.usage.prompt_tokens > 0

    def test_streaming(self, client: Any) -> None:
        question = [{"role": "user", "content": "What is cai?"}]
        whole = ask(client, "steady")
        stream = client.chat.completions.create(
            model="steady", messages=question, max_tokens=8, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole
        assert len(pieces) > 2

    def test_completion(self, client: Any) -> None:
        reply = client.completions.create(model="steady", prompt="one two three", max_tokens=4)
        assert "one two three".startswith(reply.choices[0].text)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 4

    def test_models(self, client: Any) -> None:
        assert "steady" in {model.id for model in client.models.list()}

    def test_unknown_model(self, client: Any) -> None:
        assert "nobody" in refused(openai.NotFoundError, client, "nobody")["message"]

    def test_wrong_key(self, cluster: Cluster) -> None:
        refused(openai.AuthenticationError, cluster.client("sk-wrong"), "steady")

    def test_chat_command(self, cluster: Cluster) -> None:
        done = cluster.cai.ok("model", "chat", "steady", "Hello", "--max-tokens", "4")
        assert done.stdout.strip()

    def test_stop_in_mid_stream_frees_the_engine(self, cluster: Cluster, client: Any) -> None:
        slow = {"type": "echo", "args": {"tokens_per_second": 50}}
        cluster.deploy_ok("slow", engine=slow, **SMALL)
        stream = client.completions.create(
            model="slow", prompt="one two three", max_tokens=1500, stream=True
        )
        for count, _ in enumerate(stream):
            if count == 5:
                break
        stream.close()
        until(lambda: running(cluster, "slow") == 0, 15, "the end of the abandoned request")
        assert ask(client, "slow")
        cluster.delete("slow")


class TestStuckEngine:
    def test_is_replaced_and_answers_again(self, cluster: Cluster, client: Any) -> None:
        cluster.deploy_ok(
            "stuck",
            # The cluster's own probes count too.
            engine={"type": "echo", "args": {"wedge_after": 15}},
            health={"probe_every": "1s", "probe_timeout": "2s"},
            shutdown_timeout="20s",
            **SMALL,
        )
        (before,) = cluster.model("stuck")["instances"]
        quick = client.with_options(timeout=2)
        with pytest.raises(openai.APITimeoutError):
            ask_often(quick, "stuck", 15)
        until(lambda: answered_by_another(cluster, quick, before["pid"]), 60, "a new replica")
        log = cluster.cai.ok("model", "logs", "stuck", "--cluster", cluster.name).stdout
        assert "cleanup done after" in log
        cluster.delete("stuck")


def ask_often(client: Any, model: str, times: int) -> None:
    for _ in range(times):
        ask(client, model)


def answered_by_another(cluster: Cluster, client: Any, pid: int) -> bool:
    others = [row for row in cluster.model("stuck")["instances"] if row["pid"] != pid]
    if not any(row["phase"] == "ready" for row in others):
        return False
    try:
        return bool(ask(client, "stuck"))
    except (openai.APITimeoutError, openai.APIStatusError):
        return False


def running(cluster: Cluster, model: str) -> int:
    return sum(row["running"] for row in cluster.model(model)["instances"])


def unknown(client: Any, model: str) -> bool:
    """Whether the gateway has forgotten the model: it says 503 while a last worker is known."""
    try:
        ask(client, model)
    except openai.NotFoundError:
        return True
    except openai.InternalServerError:
        return False
    return False


class TestIdempotence:
    def test_up_again(self, cluster: Cluster) -> None:
        data = cluster.cai.json("cluster", "up", cluster.spec)
        assert data["actions"] == []
        assert data["gateway_url"] == cluster.url
        said = cluster.cai.ok("cluster", "up", cluster.spec)
        assert said.stdout == f"{cluster.url}\n"
        assert "nothing to do" in said.stderr

    def test_deploy_again(self, cluster: Cluster) -> None:
        before = cluster.model("steady")
        spec = cluster.cai.folder / "model-steady.yaml"
        data = cluster.cai.json("model", "deploy", spec)
        assert data["actions"] == []
        after = cluster.model("steady")
        assert after["revision"] == before["revision"]
        assert after["instances"][0]["pid"] == before["instances"][0]["pid"]

    def test_dry_run_is_the_plan(self, cluster: Cluster) -> None:
        spec = cluster.cai.folder / "model-steady.yaml"
        change = ("--set", "env.NEW=1")
        plan = cluster.cai.json("model", "plan", spec, *change)
        assert plan == cluster.cai.json("model", "deploy", spec, "--dry-run", *change)
        assert [action["verb"] for action in plan["actions"]] == ["replace"]
        assert cluster.cai.json("model", "plan", spec)["actions"] == []

    def test_delete_and_down_of_nothing(self, cluster: Cluster) -> None:
        gone = cluster.cai.json("model", "delete", "never", "--yes")
        assert gone["actions"] == []
        assert cluster.cai.json("cluster", "down", "never", "--yes")["actions"] == []
        assert not cluster.cai.state("never").exists()


class TestBesideEachOther:
    def test_neighbour_sees_nothing(self, cluster: Cluster, client: Any) -> None:
        with Asker(client, "steady") as asker:
            cluster.deploy_ok("guest", **SMALL)
            assert ask(client, "guest")
            cluster.deploy_ok("guest", env={"VERSION": "2"}, **SMALL)
            assert cluster.model("guest")["revision"] == 2
            cluster.delete("guest")
            until(lambda: unknown(client, "guest"), 10, "no route to the deleted model")
            asker.wait_for(5)
        assert asker.failures == []

    def test_replacing_a_model_loses_no_request(self, cluster: Cluster, client: Any) -> None:
        cluster.deploy_ok("changing", **SMALL)
        with Asker(client, "changing") as asker:
            cluster.deploy_ok("changing", env={"VERSION": "2"}, **SMALL)
            asker.wait_for(5)
        assert asker.failures == []
        cluster.delete("changing")

    def test_failed_change_leaves_the_old_revision(self, cluster: Cluster, client: Any) -> None:
        before = cluster.model("steady")
        failing = {"type": "echo", "args": {"fail": "no luck today"}}
        spec = (cluster.cai.folder / "model-steady.yaml").read_text()
        with Asker(client, "steady") as asker:
            done = cluster.deploy("steady", engine=failing, **SMALL)
            asker.wait_for(5)
        assert done.returncode == 1
        assert "CAI-MODEL-002" in done.stderr
        assert "no luck today" in done.stderr
        assert asker.failures == []
        after = cluster.model("steady")
        assert (after["revision"], after["state"]) == (before["revision"], "ready")
        (cluster.cai.folder / "model-steady.yaml").write_text(spec)
        assert cluster.cai.json("model", "deploy", spec_path(cluster, "steady"))["actions"] == []

    def test_failed_first_deploy(self, cluster: Cluster, client: Any) -> None:
        done = cluster.deploy("never", engine={"type": "echo", "args": {"fail": "why"}}, **SMALL)
        assert done.returncode == 1
        row = cluster.model("never")
        assert (row["state"], row["replicas"]["ready"]) == ("failed", 0)
        assert "why" in row["message"]
        assert unknown(client, "never")
        cluster.delete("never")
        assert cluster.cai("model", "status", "never").returncode == 2

    def test_deploy_in_time_out(self, cluster: Cluster) -> None:
        slow = {"engine": {"type": "echo", "args": {"start_delay": 600}}}
        spec = cluster.cai.write("late.yaml", {**echo("late"), **slow})
        done = cluster.cai("model", "deploy", spec, "--timeout", "3s")
        assert done.returncode == 4
        assert "CAI-CLUSTER-006" in done.stderr
        assert cluster.model("late")["state"] == "failed"
        hosts = cluster.commands("serving.host")
        assert len(hosts) == 1, "only that of the other model"
        cluster.delete("late")

    def test_scale(self, cluster: Cluster, client: Any) -> None:
        cluster.cai.ok("model", "scale", "steady", "2")
        cluster.cai.ok("model", "wait", "steady")
        until(lambda: cluster.model("steady")["replicas"] == {"ready": 2, "wanted": 2}, 30, "2")
        data = cluster.cai.json("model", "deploy", spec_path(cluster, "steady"))
        assert [action["verb"] for action in data["actions"]] == ["scale"]
        until(lambda: len(cluster.model("steady")["instances"]) == 1, 30, "one replica again")
        assert ask(client, "steady")

    def test_no_replicas(self, cluster: Cluster, client: Any) -> None:
        """Idle is a state of its own: nothing runs, and the next count starts it again."""
        cluster.deploy_ok("lazy", replicas=0, **SMALL)
        for up in (("scale", "lazy", "1"), ("deploy", spec_path(cluster, "lazy"))):
            row = cluster.model("lazy")
            assert (row["state"], row["replicas"], row["instances"]) == (
                "idle",
                {"ready": 0, "wanted": 0},
                [],
            )
            with pytest.raises(openai.APIStatusError):
                ask(client, "lazy")
            assert cluster.cai.ok("model", "wait", "lazy").stdout == f"{cluster.url}/v1\n"
            cluster.cai.ok("model", *up, *(() if up[0] == "scale" else ("--set", "replicas=1")))
            cluster.cai.ok("model", "wait", "lazy")
            assert ask(client, "lazy")
            cluster.cai.ok("model", "scale", "lazy", "0")
        assert cluster.model("lazy")["revision"] == 1
        cluster.delete("lazy")


def echo(name: str) -> dict[str, Any]:
    from support import echo_spec

    return echo_spec(name, **SMALL)


def spec_path(cluster: Cluster, model: str) -> Path:
    return cluster.cai.folder / f"model-{model}.yaml"


class TestSudden:
    """Deaths by SIGKILL; a client keeps asking."""

    def test_replica(self, cluster: Cluster, client: Any) -> None:
        cluster.deploy_ok("twins", replicas=2, **SMALL)
        pids = self.pids(cluster)
        hosts = {p.pid for p in psutil.Process(min(pids)).children()}
        with Asker(client, "twins", threads=4) as asker:
            os.kill(min(pids), signal.SIGKILL)
            until(lambda: not any(map(psutil.pid_exists, hosts)), 5, "the engine's end")
            until(lambda: self.replaced(cluster, pids), 60, "a new replica")
            asker.wait_for(20)
        assert hosts
        assert asker.failures == []

    def test_engine_host(self, cluster: Cluster, client: Any) -> None:
        pids = self.pids(cluster)
        (host,) = psutil.Process(min(pids)).children()
        with Asker(client, "twins", threads=4) as asker:
            host.kill()
            until(lambda: self.replaced(cluster, pids), 60, "a new replica")
            asker.wait_for(20)
        assert asker.failures == []
        cluster.delete("twins")

    def test_smg(self, cluster: Cluster, client: Any) -> None:
        (smg,) = cluster.commands("smg::router")
        smg.kill()
        until(lambda: answers(client), 20, "the gateway's return")
        (again,) = cluster.commands("smg::router")
        assert again.pid != smg.pid

    def test_gateway_actor(self, cluster: Cluster, client: Any) -> None:
        (smg,) = cluster.commands("smg::router")
        actor = smg.parent()
        assert actor is not None
        assert "Gateway" in command_line(actor)
        actor.kill()
        until(lambda: not psutil.pid_exists(smg.pid), 5, "the end of SMG with its actor")
        until(lambda: answers(client), 30, "the gateway's return")
        assert cluster.model("steady")["state"] == "ready"

    def pids(self, cluster: Cluster) -> set[int]:
        return {row["pid"] for row in cluster.model("twins")["instances"]}

    def replaced(self, cluster: Cluster, before: set[int]) -> bool:
        row = cluster.model("twins")
        now = {it["pid"] for it in row["instances"] if it["phase"] == "ready"}
        return row["replicas"]["ready"] == 2 and len(now & before) == 1


def answers(client: Any) -> bool:
    try:
        return bool(ask(client, "steady"))
    except openai.APIError:
        return False


class TestJson:
    def test_cluster_list(self, cluster: Cluster) -> None:
        (row,) = cluster.cai.json("cluster", "list")["clusters"]
        assert row == {
            "name": "echoes",
            "state": "ready",
            "provider": "local",
            "gateway_url": cluster.url,
            "nodes": 1,
            "models": 1,
        }

    def test_cluster_status(self, cluster: Cluster) -> None:
        data = cluster.cai.json("cluster", "status", "echoes")
        keys = {"schema", "name", "state", "provider", "ray_address", "gateway_url", "nodes"}
        assert set(data) >= keys
        (node,) = data["nodes"]
        assert set(node) >= {"id", "role", "group", "state", "ip", "cpu", "gpu", "memory"}
        assert (node["id"], node["role"], node["state"]) == ("head", "head", "ready")
        assert (node["cpu"], node["gpu"], node["memory"]) == (4, 0, 2**30)

    @pytest.mark.parametrize("words", [("list",), ("status", "steady")])
    def test_models(self, cluster: Cluster, words: tuple[str, ...]) -> None:
        (row,) = cluster.cai.json("model", *words)["models"]
        assert row["replicas"] == {"ready": 1, "wanted": 1}
        assert row["endpoint"] == f"{cluster.url}/v1"
        assert row["engine_config"]["served_model_name"] == "steady"
        known = {"name": "steady", "state": "ready", "engine": "echo", "transport": "grpc"}
        assert known.items() <= row.items()
        assert {"revision", "message"} <= set(row)

    def test_model_plan(self, cluster: Cluster) -> None:
        spec = cluster.cai.write("new.yaml", echo("new"))
        (action,) = cluster.cai.json("model", "plan", spec)["actions"]
        assert set(action) == {"verb", "kind", "name", "detail"}
        assert (action["verb"], action["kind"], action["name"]) == ("create", "model", "new")

    def test_error(self, cluster: Cluster) -> None:
        done = cluster.cai("model", "status", "nobody", "--json")
        assert done.returncode == 2
        data = json.loads(done.stdout)
        assert data["error"]["code"] == "CAI-MODEL-001"
        assert set(data["error"]) == {"code", "message", "hint"}


class TestWrongInput:
    @pytest.mark.parametrize(
        ("keys", "code", "status", "said"),
        [
            ({"engine": {"type": "ecko"}}, "CAI-ENGINE-001", 2, 'did you mean "echo"'),
            ({"resources": {"cpu": 99}}, "CAI-PLAN-001", 2, "largest node has 4"),
            ({"resources": {"gpu": 2}}, "CAI-PLAN-001", 2, "needs 2 GPU on one node"),
            ({"resources": {"memory": "1Ti"}}, "CAI-PLAN-001", 2, "largest node has 1.0Gi"),
            ({"source": "/nowhere"}, "CAI-STORAGE-001", 2, "no such folder"),
            ({"source": "./empty"}, "CAI-STORAGE-001", 2, "no weights"),
            (
                {"engine": {"type": "vllm", "args": {"max_model_length": 1}}},
                "CAI-PLAN-002",
                2,
                'did you mean "max_model_len"',
            ),
            ({"engine": {"type": "echo", "transport": "http"}}, "CAI-ENGINE-003", 1, "no http"),
        ],
    )
    def test_model(
        self, cluster: Cluster, keys: dict[str, Any], code: str, status: int, said: str
    ) -> None:
        (cluster.cai.folder / "empty").mkdir(exist_ok=True)
        done = cluster.deploy("wrong", **keys)
        assert (done.returncode, done.stdout) == (status, "")
        assert code in done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_nothing_is_half_made(self, cluster: Cluster) -> None:
        assert cluster.cai("model", "status", "wrong").returncode == 2

    def test_confirmation_without_a_terminal(self, cluster: Cluster) -> None:
        for words in (("cluster", "down", "echoes"), ("model", "delete", "steady")):
            done = cluster.cai(*words)
            assert done.returncode == 2
            assert "CAI-CLI-002" in done.stderr
        assert cluster.model("steady")["state"] == "ready"

    def test_change_of_what_is_fixed(self, cluster: Cluster) -> None:
        done = cluster.cai("cluster", "up", cluster.spec, "--set", "head.cpu=1")
        assert done.returncode == 1
        assert "CAI-CLUSTER-011" in done.stderr

    def test_unknown_cluster(self, cluster: Cluster) -> None:
        done = cluster.cai("model", "list", "--cluster", "nowhere")
        assert done.returncode == 2
        assert "(known: echoes)" in done.stderr


def test_logs(cluster: Cluster) -> None:
    assert "cluster" not in cluster.cai.ok("model", "logs", "steady").stderr
    assert cluster.cai.ok("cluster", "logs", "echoes", "--node", "head").stdout


class TestSecrets:
    """The last class: by now every command has been run."""

    @pytest.fixture
    def secrets(self, cluster: Cluster) -> list[str]:
        token = (cluster.folder / "token").read_text().strip()
        inner = (cluster.folder / "gateway.key").read_text().strip()
        return [KEY, HUB_TOKEN, token, inner]

    def test_files(self, cluster: Cluster, secrets: list[str]) -> None:
        temp = json.loads((cluster.folder / "cluster.json").read_text())["temp_folder"]
        found = set()
        for root in (cluster.cai.folder, Path(temp)):
            for path in (it for it in root.rglob("*") if it.is_file() and not it.is_symlink()):
                data = path.read_bytes()
                if any(secret.encode() in data for secret in secrets):
                    found.add(path.name)
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert found == SECRET_FILES

    def test_command_lines(self, cluster: Cluster, secrets: list[str]) -> None:
        lines = [command_line(process) for process in psutil.process_iter()]
        assert any("ray_serve_cai" in line for line in lines)
        assert [line for line in lines if any(secret in line for secret in secrets)] == []

    def test_words(self, cluster: Cluster, secrets: list[str]) -> None:
        assert len(cluster.cai.said) > 50
        assert [text for text in cluster.cai.said if any(it in text for it in secrets)] == []

    def test_plan_masks_what_stands_in_a_file(self, cluster: Cluster) -> None:
        spec = cluster.cai.write("literal.yaml", {**echo("literal"), "env": {"A_TOKEN": KEY}})
        for words in (("model", "plan"), ("validate",)):
            done = cluster.cai(*words, spec)
            assert KEY not in done.stdout + done.stderr
