"""The deployment files, read without running them: settings exist, metrics exist, nothing runs as root."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud_service.config import load_config as load_cloud
from cloud_service.metrics import Metrics as CloudMetrics
from cloud_service.replicas.scaling import EngineLoadPolicy
from edge_agent.config import load_config as load_edge
from edge_agent.metrics import Metrics as EdgeMetrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
IMAGES = ("edge", "cloud")


def dockerfile(image: str) -> list[list[str]]:
    """The instructions of each stage."""
    source = (DEPLOY / f"{image}.Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in source.splitlines() if line.strip() and line[0] != "#"]
    starts = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    return [lines[a:b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def environment(image: str) -> dict[str, str]:
    """The variables of an image and its service in the compose file."""
    env = [line for line in dockerfile(image)[-1] if line.startswith("ENV ")]
    pairs = [pair.partition("=") for line in env for pair in shlex.split(line)[1:]]
    return {k: v for k, _, v in pairs} | COMPOSE["services"][image]["environment"]


def metric_names() -> set[str]:
    names = set()
    for registry in (EdgeMetrics().registry, CloudMetrics().registry):
        for family in registry.collect():
            names |= {
                "counter": {f"{family.name}_total"},
                "histogram": {f"{family.name}_{end}" for end in ("bucket", "sum", "count")},
            }.get(family.type, {family.name})
    return names


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana/dashboards/tandem.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    return [
        *(target["expr"] for panel in board["panels"] for target in panel.get("targets", ())),
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_built_in_stages_and_run_as_nobody_special(image: str) -> None:
    stages = dockerfile(image)
    assert len(stages) == 2
    last = stages[-1]
    assert "USER 10001:10001" in last
    assert any(line.startswith("HEALTHCHECK ") for line in last)
    assert "COPY --from=build /opt/tandem /opt/tandem" in last
    assert not any(
        re.search(r"gguf|safetensors|models? pull", line) for stage in stages for line in stage
    )
    (entry,) = [line for line in last if line.startswith("ENTRYPOINT ")]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in scripts


def test_the_edge_image_brings_no_torch() -> None:
    stages = "\n".join(line for stage in dockerfile("edge") for line in stage)
    assert "'.[edge]'" in stages
    assert "torch" not in stages


@pytest.mark.parametrize("image", IMAGES)
def test_health_checks_are_python(image: str) -> None:
    (check,) = [line for line in dockerfile(image)[-1] if line.startswith("HEALTHCHECK ")]
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    allowed = set((ROOT / ".dockerignore").read_text().splitlines())
    for image in IMAGES:
        for line in dockerfile(image)[0]:
            if line.startswith("COPY "):
                for source in line.split()[1:-1]:
                    assert f"!{source.partition('/')[0]}" in allowed
                    assert source == "README.md" or (ROOT / source).exists()


def test_the_services_variables_are_settings() -> None:
    edge_variables = {k: v for k, v in environment("edge").items() if k.startswith("TANDEM_")}
    edge = load_edge(environment=edge_variables)
    assert edge.cloud.target == "cloud:7443"
    assert edge.http.host == "edge"
    cloud_variables = {k: v for k, v in environment("cloud").items() if k.startswith("TANDEM_")}
    cloud = load_cloud(None, flags={}, environment=cloud_variables)
    assert cloud.listen == "0.0.0.0:7443"
    assert cloud.health_listen == "127.0.0.1:7444"
    assert not cloud.tls.insecure_loopback


def test_services_are_hardened_and_published_on_loopback_only() -> None:
    for service in COMPOSE["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    mounts = COMPOSE["services"]["edge"]["volumes"]
    assert not any(mount.startswith("pki:") for mount in mounts)  # the authority's key


def test_prometheus_scrapes_what_the_services_open() -> None:
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {scrape["job_name"]: scrape["static_configs"][0]["targets"] for scrape in scrapes}
    port = environment("cloud")["TANDEM_CLOUD_METRICS_LISTEN"].rpartition(":")[2]
    assert targets == {"tandem-cloud": [f"cloud:{port}"], "tandem-edge": ["edge:8010"]}


def test_every_metric_that_is_shown_or_alerted_on_exists() -> None:
    names = metric_names()
    asked = {name for text in expressions() for name in re.findall(r"\btandem_\w+", text)}
    assert asked - names == set()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboards/tandem.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & mine
        assert at["x"] + at["w"] <= 24
        cells |= mine


def test_the_unit_keeps_the_agent_in_its_place() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd/tandem-edge.service")
    service = unit["Service"]
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "DynamicUser", "ProtectHome"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["LimitCORE"] == "0"
    assert service["MemorySwapMax"] == "0"
    assert service["ExecStart"].split()[:2] == ["/opt/tandem/bin/edge-agent", "serve"]
    source = (DEPLOY / "systemd/tandem-edge.service").read_text()
    variables = dict(re.findall(r"^Environment=(TANDEM_\w+)=(.*)$", source, re.MULTILINE))
    config = load_edge(environment=variables)
    assert config.state_folder == Path("/var/lib/tandem")


def test_the_ray_application_names_what_there_is() -> None:
    """Read without Ray, which is not installed everywhere."""
    document = yaml.safe_load((DEPLOY / "ray/serve.yaml").read_text())
    (application,) = document["applications"]
    source = (ROOT / "cloud_service/replicas/app.py").read_text()
    module, _, function = application["import_path"].partition(":")
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").read_text() == source
    assert f"def {function}(" in source
    for name in application["args"]:
        assert re.search(rf"^    {name}: ", source, re.MULTILINE), name
    by_name = {one["name"]: one for one in application["deployments"]}
    assert set(by_name) == set(re.findall(r'Final = "(\w+)"', source))
    replica = by_name["CloudReplica"]
    assert replica["graceful_shutdown_timeout_s"] >= 25  # a drain is not cut off
    scaling = replica["autoscaling_config"]
    assert scaling["max_replicas"] <= application["args"]["max_replicas"]
    assert scaling["min_replicas"] >= 2
    EngineLoadPolicy(**scaling["policy"]["policy_kwargs"])
    assert scaling["policy"]["policy_function"].endswith(f"scaling:{EngineLoadPolicy.__name__}")
    assert document["proxy_location"] == "Disabled"  # Ray's own ingress is plaintext
