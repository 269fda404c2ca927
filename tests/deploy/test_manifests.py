"""The manifests: each overlay builds, is valid, passes the checks that are not argued away, and agrees with itself."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from connectors.settings_file import read_section
from dataflows.pods import parse_peers
from tests.deploy.manifests import KUBERNETES, OVERLAYS, ROOT, Object, built, objects, of_kind, run

CHECKOV = KUBERNETES / "checkov.yaml"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def text(overlay: str) -> str:
    return built(overlay)


def workloads(found: list[Object]) -> list[Object]:
    return [one for one in found if one["kind"] in ("StatefulSet", "Job")]


def test_kubernetes_takes_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "built.yaml"
    path.write_text(text)
    told = run("kubernetes-validate", "--strict", path)
    assert (told.stdout + told.stderr).count("passed for resource") == len(objects(text))


def test_the_validator_refuses_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "built.yaml"
    path.write_text(built("prod").replace("podManagementPolicy", "podManagmentPolicy"))
    assert run("kubernetes-validate", "--strict", path, check=False).returncode != 0


def test_it_passes_every_check_that_is_not_argued_away(tmp_path: Path) -> None:
    """All overlays at once: what fails is exactly what the file argues."""
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(built(overlay))
    words = ["--framework", "kubernetes", "--skip-download", "--compact", "--output", "json", "--soft-fail"]
    told = json.loads(run("checkov", "--directory", tmp_path, *words).stdout)
    failed = {one["check_id"] for one in told["results"]["failed_checks"]}
    assert told["summary"]["passed"] > 200 and not told["summary"]["parsing_errors"]
    argued = yaml.safe_load(CHECKOV.read_text())["skip-check"]
    assert failed == set(argued)
    for check in argued:
        assert re.search(rf"#.*\n  - {check}\n", CHECKOV.read_text()), f"{check} is not argued"


def test_no_secret_is_in_it(text: str) -> None:
    assert "kind: Secret" not in text
    for one in workloads(objects(text)):
        for entry in one["spec"]["template"]["spec"]["containers"][0]["env"]:
            assert "PASSWORD" not in entry["name"] or "secretKeyRef" in entry["valueFrom"]
    settings = [one for one in objects(text) if one["metadata"]["name"].startswith("lookback-settings")]
    for value in yaml.safe_load(settings[0]["data"]["settings.yaml"])["kafka"].items():
        assert "password" not in value[0] or set(value[1]) <= {"env", "file"}


def test_a_container_may_do_nothing_that_it_needs_not(text: str) -> None:
    for one in workloads(objects(text)):
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] == "lookback"
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable - {"/var/lib/lookback", "/var/lib/lookback/training"} == {"/tmp"}


def test_the_image_is_that_of_this_release(text: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for one in workloads(objects(text)):
        assert one["spec"]["template"]["spec"]["containers"][0]["image"] == f"lookback:{version}"


def test_the_pods_of_production_know_each_other() -> None:
    found = objects(built("prod"))
    job = of_kind(found, "StatefulSet")["spec"]
    service = of_kind(found, "Service")
    (settings,) = (one["data"] for one in found if one["metadata"]["name"].startswith("lookback-job"))
    ports = {one["name"]: one["containerPort"] for one in job["template"]["spec"]["containers"][0]["ports"]}
    peers = parse_peers(settings["LOOKBACK_PEERS"])
    assert peers == tuple((f"lookback-{i}.lookback", ports["pods"]) for i in range(job["replicas"]))
    assert job["serviceName"] == service["metadata"]["name"] == "lookback"
    assert ports["worker"] == ports["pods"] + 1
    assert service["spec"]["publishNotReadyAddresses"] and service["spec"]["clusterIP"] == "None"
    assert {one["port"] for one in service["spec"]["ports"]} == set(ports.values())
    allowed = of_kind(found, "NetworkPolicy")["spec"]
    assert {one["port"] for one in allowed["ingress"][0]["ports"]} == {ports["pods"], ports["worker"]}
    out = {one["port"] for rule in allowed["egress"] for one in rule["ports"]}
    assert {
        int(uri.rpartition(":")[2].partition("/")[0]) for uri in (settings["SOURCE"], settings["STORE"])
    } <= out


def test_all_that_is_selected_is_labelled(text: str) -> None:
    found = objects(text)
    for one in found:
        if one["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            labels = of_kind(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
            wanted = one["spec"].get("selector", one["spec"].get("podSelector"))["matchLabels"]
            assert wanted.items() <= labels.items()
        assert one["metadata"]["namespace"] == "lookback"


@pytest.mark.parametrize("component", ["dev-settings", "prod-settings"])
def test_the_settings_are_ones_that_the_job_takes(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = KUBERNETES / "components" / component
    assert (folder / "features.yaml").read_bytes() == (ROOT / "features" / "fraud.yaml").read_bytes()
    monkeypatch.setenv("KAFKA_PASSWORD", "not-for-logs")
    read = read_section(folder / "settings.yaml", "kafka", {})
    assert ("sasl.password" in read.properties) == (component == "prod-settings")
