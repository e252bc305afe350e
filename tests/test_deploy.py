"""The files in deploy/ fit the gateway: its flags, its metrics, its paths, its times."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("starlette", reason="needs the extra serve")

from ps_alloc import Pacer
from ps_eval.cli import settings_of
from ps_eval.serve.app import Gateway
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.lanes import KeyRule, Lane, Lanes
from ps_eval.serve.metrics import FALLBACKS, OUTCOMES, GatewayMetrics
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.upstream import Upstream

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAML = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
ENVIRONMENT = re.compile(r"PS_EVAL_SERVE__([A-Z_]+)")


def kubernetes(kind: str) -> dict[str, Any]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["kind"] == kind:
            return dict(document)
    raise KeyError(kind)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text(encoding="utf-8"))["services"])


def container() -> dict[str, Any]:
    return dict(kubernetes("Deployment")["spec"]["template"]["spec"]["containers"][0])


def unit() -> dict[str, str]:
    lines = (DEPLOY / "systemd/ps-gateway.service").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.fixture
def exported() -> set[str]:
    """Every series that /metrics may have, by its name."""
    metrics = GatewayMetrics()
    names: set[str] = set()
    for metric in metrics.registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        names |= {metric.name + end for end in ends}
    return names


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_file_is_yaml(path: Path) -> None:
    assert all(
        isinstance(document, dict) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    )


def expressions() -> list[tuple[str, str]]:
    board = json.loads((DEPLOY / "grafana/gateway.json").read_text(encoding="utf-8"))
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    found += [("variable", v["query"]["query"]) for v in board["templating"]["list"] if v["type"] == "query"]
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    return found + [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]


def test_every_metric_and_label_that_is_asked_for_exists(exported: set[str]) -> None:
    assert len(expressions()) > 40
    labels = {
        label for values in vars(GatewayMetrics()).values() for label in getattr(values, "_labelnames", ())
    }
    for where, expression in expressions():
        assert set(re.findall(r"ps_gateway_\w+", expression)) <= exported, where
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        used = {name.strip() for names in grouped for name in names.split(",")}
        assert used <= labels | {"instance", "job", "le"}, where
        for name, values in re.findall(r'(outcome|reason)=~?"([^"]+)"', expression):
            assert set(values.split("|")) <= set(OUTCOMES if name == "outcome" else FALLBACKS), where


def test_what_is_scraped_is_what_the_rules_speak_of() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]}
    jobs = {job for _, expression in expressions() for job in re.findall(r'job="([^"]+)"', expression)}
    assert jobs <= set(targets)
    assert targets["ps-gateway"] == ["gateway:8100"]
    assert {target.split(":")[0] for names in targets.values() for target in names} <= set(compose())


@pytest.mark.parametrize("tool", ["rules", "config", "test"])
def test_prometheus_takes_them(tool: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    arguments = {
        "rules": ["check", "rules", "alerts.yml"],
        "config": ["check", "config", "prometheus.yml"],
        "test": ["test", "rules", "alerts_test.yml"],
    }[tool]
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def configurations() -> dict[str, str]:
    return {
        "compose": (DEPLOY / "gateway.yaml").read_text(encoding="utf-8"),
        "kubernetes": kubernetes("ConfigMap")["data"]["gateway.yaml"],
    }


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_the_parser_takes_every_setting(name: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(configurations()[name], encoding="utf-8")
    settings = settings_of(["serve", "--config", str(path)])
    assert settings["upstream"] == "http://vllm:8000"
    assert settings["predictor"].startswith("/etc/gateway/")
    assert settings["state"].startswith("/var/lib/gateway/")


def test_the_parser_takes_every_command_line_and_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(configurations()["compose"], encoding="utf-8")
    docker = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for name, value in re.findall(r"(PS_EVAL_SERVE__[A-Z_]+)=(\S+)", docker):
        monkeypatch.setenv(name, value)
    assert json.loads(docker.splitlines()[-1].removeprefix("ENTRYPOINT ")) == ["ps-eval", "serve"]
    program = shlex.split(unit()["ExecStart"])
    assert Path(program[0]).name == "ps-eval"
    for arguments in (
        ["serve", *compose()["gateway"]["command"]],
        program[1:],
        ["serve", *container()["args"]],
    ):
        given = [str(path) if argument.endswith("/gateway.yaml") else argument for argument in arguments]
        settings = settings_of(given)
        assert (settings["host"], settings["port"], settings["log_format"]) == ("0.0.0.0", 8100, "json")
    every = {name for p in DEPLOY.rglob("*") if p.is_file() for name in ENVIRONMENT.findall(p.read_text())}
    assert every == {"HOST", "PORT", "LOG_FORMAT", "KEYS"}
    monkeypatch.setenv("PS_EVAL_SERVE__KEYS", json.dumps([{"name": "a", "sha256": "0" * 64, "max_n": 2}]))
    assert settings_of(["serve", "--config", str(path)])["keys"] == [
        KeyRule(name="a", sha256="0" * 64, max_n=2)
    ]


def test_every_probe_asks_for_a_path_that_there_is() -> None:
    probes = [container()[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [probe["path"] for probe in probes] == ["/live", "/live", "/ready"]
    budgets = Budgets(Pacer(48), GatewayMetrics(), batcher=None, reader=QuestionReader(None))
    app = Gateway(Upstream("http://127.0.0.1:1"), Lanes(Lane(budgets, {})), GatewayMetrics()).app()
    own = {route.path for route in app.routes if "{" not in route.path}  # type: ignore[attr-defined]
    docker = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    asked = re.findall(r"127\.0\.0\.1:8100(/\w+)", docker)
    annotations = kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert asked == ["/live"]
    assert {*asked, *(p["path"] for p in probes), annotations["prometheus.io/path"]} <= own
    named = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert {probe["port"] for probe in probes} <= set(named)
    assert named["http"] == 8100
    assert kubernetes("Service")["spec"]["ports"][0]["targetPort"] in named


def test_a_stop_waits_until_all_is_drained() -> None:
    def seconds(name: str) -> float:
        config = yaml.safe_load(configurations()[name])
        return float(config["shutdown_delay"] + config["drain_seconds"])

    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= seconds("kubernetes") + 10
    assert int(compose()["gateway"]["stop_grace_period"].rstrip("s")) >= seconds("compose") + 10
    assert int(unit()["TimeoutStopSec"]) >= seconds("compose") + 10
    readiness = container()["readinessProbe"]
    noticed = (readiness["failureThreshold"] + 1) * readiness["periodSeconds"]
    assert yaml.safe_load(configurations()["kubernetes"])["shutdown_delay"] >= noticed


def test_nothing_runs_as_root_and_every_replica_has_a_state_of_its_own() -> None:
    docker = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    user = re.findall(r"^USER (\d+)", docker, re.MULTILINE)[-1]
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert str(pod["securityContext"]["runAsUser"]) == user != "0"
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container()["volumeMounts"]}
    assert "emptyDir" in mounted["/var/lib/gateway"]
    assert "emptyDir" in mounted["/tmp"]  # compiled kernels go there
    assert unit()["DynamicUser"] == "yes"


def test_the_parts_find_each_other() -> None:
    labels = kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        kubernetes("Service")["spec"]["selector"],
        kubernetes("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        kubernetes("Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert (
        kubernetes("PodDisruptionBudget")["spec"]["minAvailable"]
        < kubernetes("Deployment")["spec"]["replicas"]
    )
    listed = set(kubernetes("Kustomization")["resources"])
    assert listed == {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert container()["image"] == compose()["gateway"]["image"]
    # What the image's build copies, its ignore file lets through.
    docker = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*)", docker, re.M) for name in line.split()[:-1]
    }
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert copied == {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_panels_lie_side_by_side() -> None:
    panels = json.loads((DEPLOY / "grafana/gateway.json").read_text(encoding="utf-8"))["panels"]
    taken = np.zeros((200, 24), dtype=int)
    for place in (panel["gridPos"] for panel in panels):
        taken[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]] += 1
    assert taken.max() == 1
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("needs systemd-analyze")
    text = (DEPLOY / "systemd/ps-gateway.service").read_text(encoding="utf-8")
    copy = tmp_path / "ps-gateway.service"
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ps-gateway" not in done.stderr, done.stderr  # unknown settings are only warned of
