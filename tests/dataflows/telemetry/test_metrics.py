"""The table of metrics in the docs is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from dataflows.telemetry.export import STEPS
from dataflows.telemetry.metrics import METRICS, prometheus_name
from dataflows.telemetry.observed import REASONS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations" / "metrics.md"


def test_the_table_is_the_code() -> None:
    rows = re.findall(r"^\| (`lookback\..*) \|$", PAGE.read_text(), re.MULTILINE)
    documented = [tuple(cell.strip() for cell in row.split(" | ")) for row in rows]
    assert documented == [
        (
            f"`{metric.name}`", metric.kind, metric.unit,
            ", ".join(f"`{name}`" for name in metric.attributes) or "none",
            f"`{prometheus_name(metric)}`", metric.meaning,
        )
        for metric in METRICS
    ]  # fmt: skip


def test_names_are_one_each_and_no_names_space() -> None:
    """OpenTelemetry forbids a metric's name that another one begins with, up to a dot."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert not [(one, other) for one in names for other in names if other.startswith(one + ".")]


def test_values_of_attributes_are_documented() -> None:
    text = PAGE.read_text()
    assert [word for word in (*STEPS.values(), *REASONS) if f"`{word}`" not in text] == []
