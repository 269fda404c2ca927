"""The alert rules, put by promtool to what was scraped of a real job that broke (`record.py`); and the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataflows.telemetry.metrics import HISTOGRAM, METRICS, prometheus_name
from tests.dataflows.telemetry import record

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "examples" / "grafana" / "lookback.json"
MISSING = "no promtool; install it with: apt install prometheus (Debian)"


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip(MISSING)
    return found


def recorded() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(record.FILE.read_text())
    return told


def names_of_ours() -> set[str]:
    found = set()
    for metric in METRICS:
        name = prometheus_name(metric)
        found |= (
            {f"{name}_{part}" for part in ("bucket", "sum", "count")} if metric.kind == HISTOGRAM else {name}
        )
    return found


def firing(tmp_path: Path, at_seconds: int, wanted: list[str], series: dict[str, list[float | None]]) -> str:
    """Return what promtool says against these alerts, and no others, firing at an instant; "" where it agrees."""
    rules = yaml.safe_load(record.RULES.read_text())["groups"][0]["rules"]
    interval = record.INTERVAL_SECONDS
    test = {
        "rule_files": [str(record.RULES)],
        "evaluation_interval": f"{interval}s",
        "tests": [
            {
                "interval": f"{interval}s",
                "input_series": [
                    {"series": name, "values": " ".join("_" if v is None else repr(v) for v in values)}
                    for name, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname) (ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}}) > 0',
                        "eval_time": f"{at_seconds}s",
                        "exp_samples": [],
                    }
                    for rule in rules
                ],
            }
        ],
    }
    for one, rule in zip(test["tests"][0]["promql_expr_test"], rules, strict=True):  # type: ignore[index]
        if rule["alert"] in wanted:
            one["expr"] = one["expr"].replace("count by (alertname)", "group by (alertname)")
            one["exp_samples"] = [{"labels": f'{{alertname="{rule["alert"]}"}}', "value": 1}]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool(), "test", "rules", file], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


# Per phase: how many seconds after its beginning is looked, and what fires then. 2 % of the events are bad, 2 % late;
# seven cards share them all, so that their logs pass the store's limit after the first fault.
REFUSED = ["LookbackRefused", "LookbackLate"]
SINCE = [*REFUSED, "LookbackStale"]
EXPECTED = [
    ("well", 55, []),
    ("store stands still", 145, ["LookbackStoreWaits", "LookbackEpochOld", "LookbackBehind", *REFUSED]),
    ("well again", 55, SINCE),
    (
        "broker stands still",
        15,
        ["LookbackNotFresh", *SINCE],
    ),  # the first writes after the store's fault, over 5 m
    ("broker stands still", 145, ["LookbackSourceAway", "LookbackNotFresh", *SINCE]),
    ("stopped", 95, ["LookbackDown", "LookbackNotFresh", *SINCE]),
]


@pytest.mark.parametrize(("phase", "after", "wanted"), EXPECTED)
def test_what_fires_of_a_broken_run(tmp_path: Path, phase: str, after: int, wanted: list[str]) -> None:
    told = recorded()
    at = told["phases"][phase] * told["interval_seconds"] + after
    assert firing(tmp_path, at, wanted, told["series"]) == ""


def test_an_alert_that_does_not_fire_fails_the_test(tmp_path: Path) -> None:
    told = recorded()
    assert "LookbackDown" in firing(tmp_path, 10, ["LookbackDown"], told["series"])


PART = '{instance="a",messaging_destination_name="p",messaging_destination_partition_id="0"}'


@pytest.mark.parametrize(
    ("alert", "series", "values"),
    [
        ("LookbackDiskFull", 'lookback_worker_waits{instance="a",lookback_resource="disk"}', [1.0] * 20),
        (
            "LookbackChangeLogWaits",
            'lookback_worker_waits{instance="a",lookback_resource="change_log"}',
            [1.0] * 20,
        ),
        ("LookbackEventsLost", f"lookback_partition_lost_total{PART}", [0.0] * 10 + [7.0] * 10),
        ("LookbackRefreshBehind", 'lookback_refresh_delay_seconds{instance="a"}', [61.0] * 20),
        ("LookbackRestarts", 'lookback_epoch_commits_total{instance="a"}', [9.0, 1.0] * 10),
    ],
)
def test_what_was_not_recorded(tmp_path: Path, alert: str, series: str, values: list[float | None]) -> None:
    """Faults that a test can't wait for: a full disk, a log's brokers away, lost events, refreshes behind, restarts."""
    assert firing(tmp_path, 95, [alert], {series: values}) == ""
    assert firing(tmp_path, 95, [], {series: [0.0] * 20}) == ""


def test_every_alert_is_tried() -> None:
    rules = yaml.safe_load(record.RULES.read_text())["groups"][0]["rules"]
    tried = {alert for _, _, wanted in EXPECTED for alert in wanted}
    marks = test_what_was_not_recorded.pytestmark  # type: ignore[attr-defined]
    tried |= {alert for mark in marks for alert, _, _ in mark.args[1]}
    assert tried == {rule["alert"] for rule in rules}


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    told = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in told["panels"] for target in panel.get("targets", [])]
    used = set(re.findall(r"\blookback_\w+", " ".join(asked))) - {
        "lookback_view",
        "lookback_step",
        "lookback_reason",
    }
    assert len(asked) >= len(told["panels"]) and used <= names_of_ours() | {"lookback_resource"}, (
        used - names_of_ours()
    )
    ids = [panel["id"] for panel in told["panels"]]
    assert len(set(ids)) == len(ids)


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    told = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in told["panels"] for target in panel.get("targets", [])]
    rules = [
        {"record": f"r:{n}", "expr": expr.replace("$__rate_interval", "1m")} for n, expr in enumerate(asked)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run([promtool(), "check", "rules", file], check=True, capture_output=True)
