"""What `lookback check` says of a definition."""

from __future__ import annotations

import json

from lookback.definition import load
from lookback.definition.describe import describe, describe_json, duration_text
from tests.definition.samples import ROOT, with_features


def test_every_feature_is_listed_with_its_type() -> None:
    for path in [
        ROOT / "features" / "fraud.yaml",
        *sorted((ROOT / "examples" / "definitions").glob("*.yaml")),
    ]:
        definition = load(path)
        text, facts = describe(definition), json.loads(json.dumps(describe_json(definition)))
        for view in definition.views.values():
            assert (
                view.short_fingerprint in text
                and facts["views"][view.name]["fingerprint"] == view.fingerprint
            )
            assert list(facts["views"][view.name]["features"]) == [one.name for one in view.features]
            assert all(f"  {one.name} " in text for one in view.features)
        for name in [*definition.on_demand, *definition.services]:
            assert name in text


def test_facts_of_a_view() -> None:
    facts = describe_json(load(ROOT / "examples" / "definitions" / "every_aggregate.yaml"))["views"][
        "card_all"
    ]
    features = facts["features"]
    assert features["total_1d"] == {
        "agg": "sum",
        "type": "decimal(19,2)",
        "empty": "0.00",
        "window_ms": 86_400_000,
        "delay_ms": 0,
        "keeps_every_row": False,
    }
    assert features["average_7d"]["empty"] == 12.5 and features["smallest_7d"]["empty"] is None
    assert features["top_shops_30d"]["type"] == "list of string, 5 at most"
    assert features["since_last_30d"]["type"] == "int64 ms"
    assert facts["reach_ms"] == 90 * 86_400_000
    assert facts["entity_bytes_with_100_rows"] == facts["entity_bytes"] + 100 * facts["row_bytes"]


def test_what_keeps_every_row_is_marked() -> None:
    definition = with_features(
        "a: {agg: distinct, of: merchant, windows: [lifetime, 1d]}\nb: {agg: count, windows: [lifetime]}"
    )
    facts = describe_json(definition)["views"]["card_activity"]
    assert facts["reach_ms"] is None
    assert [one["keeps_every_row"] for one in facts["features"].values()] == [False, True, False]
    assert "kept for ever" in describe(definition) and "keeps every row" in describe(definition)


def test_coarse_times_are_stated() -> None:
    definition = with_features("a: {agg: count, windows: [1d]}", "    resolution: 1m\n")
    assert "a window is off by at most 1m" in describe(definition)
    assert [duration_text(ms) for ms in (0, 1, 1_500, 90_000, 86_400_000)] == [
        "0s",
        "1ms",
        "1500ms",
        "90s",
        "1d",
    ]
